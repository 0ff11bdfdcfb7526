# SPDX-License-Identifier: Apache-2.0
"""A bounded part of the fuzzing."""

from __future__ import annotations

import pytest

from . import fuzz

CASES = {
    "messages": 3000,
    "parameters": 1000,
    "schemas": 50,
    "bags": 100,
    "checkpoints": 50,
    "quality": 1000,
    "predictors": 50,
    "streams": 3000,
}


@pytest.mark.slow
@pytest.mark.parametrize("part", fuzz.PARTS)
def test_what_is_damaged_is_refused_by_name(part: str) -> None:
    assert fuzz.fuzz(part, 0, 0.0, CASES[part]) == []
