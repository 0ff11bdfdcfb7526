# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.predictor.length_predictor import keep_head_and_tail


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (9, [0, 1, 2, 3, 4, 5]),
        (6, [0, 1, 2, 3, 4, 5]),
        (5, [0, 1, 3, 4, 5]),
        (2, [0, 5]),
        (1, [5]),
        (0, []),
        (-3, []),
    ],
)
def test_the_middle_goes(limit: int | None, kept: list[int]) -> None:
    assert keep_head_and_tail(range(6), limit) == kept


@given(st.lists(st.integers(), max_size=40), st.integers(0, 50))
def test_what_is_kept_is_a_head_and_a_tail(tokens: list[int], limit: int) -> None:
    kept = keep_head_and_tail(tokens, limit)
    assert len(kept) == min(len(tokens), limit)
    head = len(kept) // 2
    assert kept[:head] == tokens[:head]
    assert kept[head:] == tokens[len(tokens) - len(kept) + head :]
