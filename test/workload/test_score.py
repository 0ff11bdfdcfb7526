# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.workload.score import METRICS, edit_similarity, rouge_l, score
from timebill_ros.workload.tasks import Family


def test_rouge_l_counts_the_words_in_order() -> None:
    assert rouge_l("o1 s2 car ;", "o1 s2 car ;") == 1.0
    # "o1 car" of three words each.
    assert rouge_l("o1 car s2", "o1 s2 car") == pytest.approx(2 / 3)
    assert rouge_l("", "o1") == 0.0


def test_edit_similarity_counts_characters() -> None:
    assert edit_similarity('{"a": 1}', '{"a": 1}') == 1.0
    # One character of eight is deleted, another inserted: 1 - 2 / 16.
    assert edit_similarity('{"a": 2}', '{"a": 1}') == pytest.approx(7 / 8)
    assert edit_similarity("", '{"a": 1}') == 0.0


@pytest.mark.parametrize("family", list(Family))
def test_every_family_has_a_score_from_0_to_100(family: Family) -> None:
    assert score(family, "o1 s2 car ;", "o1 s2 car ;") == 100.0
    assert score(family, "xyz", "0 1 2") == 0.0
    assert family in METRICS
