# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.training.progress import PERIOD, Lines, track


def test_lines_come_once_in_a_period(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    lines = Lines("answering", 30, clock=lambda: now)
    for done in range(30):
        lines.tell(done)
        now += PERIOD / 10
    assert capsys.readouterr().err.splitlines() == [
        f"answering: 10 of 30, {PERIOD:.0f} s",
        f"answering: 20 of 30, {2 * PERIOD:.0f} s",
    ]


def test_an_unknown_total_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, PERIOD])
    Lines("reading", None, clock=lambda: next(times)).tell(3)
    assert capsys.readouterr().err == f"reading: 3, {PERIOD:.0f} s\n"


def test_more_may_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, PERIOD])
    Lines("collecting", 9, clock=lambda: next(times)).tell(3, "5 begun")
    assert capsys.readouterr().err == f"collecting: 3 of 9, 5 begun, {PERIOD:.0f} s\n"


def test_tracked_items_are_all_there() -> None:
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert list(track((n for n in range(3)), "counting")) == [0, 1, 2]
