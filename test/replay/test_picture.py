# SPDX-License-Identifier: Apache-2.0
"""The picture is drawn for every way that an instruction can end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from test.client.records import ALL, ANSWERED, EXPIRED, KILLED_IN_PREFILL
from timebill_ros.client.record import Ending
from timebill_ros.replay.picture import _bars, draw_run


def test_a_picture_is_written_and_grows_with_the_run(tmp_path: Path) -> None:
    heights = []
    for copies in (1, 4):
        records = [replace(r, released=r.released + i) for i in range(copies) for r in ALL]
        path = tmp_path / f"{copies}.png"
        draw_run(path, records, "a run")
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.getcolors(maxcolors=1 << 24) or ()) > 100
            heights.append(image.height)
    assert heights[0] < heights[1]


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.name)
def test_every_ending_can_be_drawn(tmp_path: Path, ending: Ending) -> None:
    draw_run(tmp_path / "run.png", [replace(EXPIRED, ending=ending)], "one")
    assert (tmp_path / "run.png").stat().st_size > 0


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_stages_follow_each_other_up_to_the_end(record: object) -> None:
    bars = {bar.stage: bar for bar in _bars(record)}
    beside = bars.pop("predict", None)
    end = 0.0
    for bar in bars.values():
        assert bar.start >= end - 1e-9
        end = bar.start + bar.length
    assert end == pytest.approx(record.timing.total)
    assert beside is None or beside.start == bars["prefill"].start


def test_a_stage_that_was_not_reached_has_no_bar() -> None:
    assert [bar.stage for bar in _bars(EXPIRED)] == ["queued"]
    assert [bar.stage for bar in _bars(KILLED_IN_PREFILL)] == ["queued", "prefill", "predict"]
    assert len(_bars(ANSWERED)) == 5


def test_an_id_of_others_is_drawn_as_it_is_and_in_one_line(tmp_path: Path) -> None:
    """A dollar sign would begin a formula, which this is none."""
    path = tmp_path / "run.png"
    draw_run(path, [replace(ANSWERED, id="$\\frac{$\x1b[2J\n[FATAL]")], "a run")
    assert path.stat().st_size > 0
