# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.runtime.recent_lengths import RecentLengths


def test_before_anything_was_seen_every_length_is_as_likely() -> None:
    lengths = RecentLengths().distribution(400)
    assert lengths.beyond(100) == pytest.approx(0.75)
    assert RecentLengths().distribution(1).beyond(1) == pytest.approx(0.0)


def test_what_was_seen_counts_most() -> None:
    recent = RecentLengths()
    for _ in range(99):
        recent.observe(20, complete=True)
    assert recent.distribution(400).beyond(24) == pytest.approx(0.01, abs=0.002)


def test_one_that_was_cut_off_is_longer() -> None:
    recent = RecentLengths()
    for _ in range(99):
        recent.observe(200, complete=False)
    assert recent.distribution(400).beyond(200) > 0.9


def test_only_the_latest_count() -> None:
    recent = RecentLengths(window=10)
    for tokens in [400] * 10 + [8] * 10:
        recent.observe(tokens, complete=True)
    assert recent.distribution(400).beyond(8) < 0.1
