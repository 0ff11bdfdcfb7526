# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.workload.score import exact_match, token_f1


def test_exact_match_ignores_spacing_but_not_order() -> None:
    assert exact_match(" o1  o2 ", "o1 o2") == 1.0
    assert exact_match("o2 o1", "o1 o2") == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        ("x y", "y x", 1.0),
        ("", "", 1.0),
        ("x", "", 0.0),
        ("", "x", 0.0),
        ("z w", "x y", 0.0),
        # Precision 2/4, recall 2/3; the second "x" finds no partner.
        ("x x y z", "x y w", 4 / 7),
        # Case, punctuation and articles are no part of an answer.
        ("The Car, is an obstacle.", "car is obstacle ;", 1.0),
    ],
)
def test_token_f1(answer: str, reference: str, f1: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
