# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.engine.text_prefix import complete_prefix


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("", ""),
        ("stop", ""),
        ("slow down", "slow"),
        ("slow down ", "slow down"),
        ("The truck stands. It wai", "The truck stands."),
        ("The truck stands.", "The truck stands."),
        ("the limit is 3.", "the limit is"),
        ("at 3.5 m", "at 3.5"),
        ("Is it red? No! I", "Is it red? No!"),
        ('He said "go." Then', 'He said "go."'),
        ("first line\nsecond li", "first line"),
        ("o12 car front ; o13 tru", "o12 car front ;"),
        ("o12 car front ;", "o12 car front ;"),
        ("a. b; c", "a. b;"),
        ("\n\nslow do", "slow"),
    ],
)
def test_a_prefix_ends_where_something_ends(text, complete):
    assert complete_prefix(text) == complete
