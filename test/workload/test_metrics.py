# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.workload.metrics import exact_match, token_f1


def test_exact_match_ignores_spacing_but_not_order() -> None:
    assert exact_match(" a  b ", "a b") == 1.0
    assert exact_match("b a", "a b") == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("a b", "b a", 1.0),
        ("", "", 1.0),
        ("a", "", 0.0),
        ("", "a", 0.0),
        ("c d", "a b", 0.0),
        # Precision 2/4, recall 2/3; the second "a" finds no partner.
        ("a a b c", "a b d", 4 / 7),
    ],
)
def test_token_f1(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
