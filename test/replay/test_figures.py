# SPDX-License-Identifier: Apache-2.0
"""Ratios and quantiles of a replay, and the picture of them."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from test.client.records import ALL, ANSWERED, EXPIRED, LATE
from timebill_ros.client.record import Ending, Record
from timebill_ros.replay.chart import draw_replay
from timebill_ros.replay.figures import Figures


def answered(total: float) -> Record:
    return replace(ANSWERED, timing=replace(ANSWERED.timing, total=total, slack=1.0 - total))


REJECTED = replace(EXPIRED, ending=Ending.REJECTED)
FIGURES = Figures([*(answered(n / 100) for n in range(1, 97)), LATE, EXPIRED, EXPIRED, REJECTED])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instructions", 100),
        ("completion", 0.96),
        ("miss_ratio", 0.03),
        ("in_time", 96),
        ("expired", 2),
        ("missing", 0),
        ("latency_p50", 0.49),
        ("latency_p90", 0.88),
        ("latency_max", 2.0),
        ("slack_min", 0.04),
        ("slack_p01", 0.04),
        ("alpha_mean", 0.42),
    ],
)
def test_figures(name: str, value: float) -> None:
    assert FIGURES[name] == pytest.approx(value)


def test_nothing_has_no_quantile() -> None:
    assert math.isnan(Figures([EXPIRED])["latency_p99"])
    assert Figures([EXPIRED])["completion"] == 0.0
    assert "-" in Figures([EXPIRED]).table()


@pytest.mark.parametrize("name", ["latency", "latency_p100", "latency_q5", "speed_p50", "Killed"])
def test_unknown_figures_are_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(KeyError, match=f"{name}: there are instructions, completion"):
        FIGURES[name]


def test_the_table_and_the_file_say_the_same(tmp_path: Path) -> None:
    FIGURES.write_csv(tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        rows = {row["figure"]: float(row["value"]) for row in csv.DictReader(file)}
    assert rows["completion"] == 0.96
    assert rows["latency_p99"] == 2.0
    table = FIGURES.table()
    assert "completion 0.9600, miss ratio 0.0300" in table
    assert "96.0%" in table


@pytest.mark.parametrize("records", [ALL, [EXPIRED], [REJECTED] * 300])
def test_the_picture_is_drawn_whatever_happened(tmp_path: Path, records: list[Record]) -> None:
    draw_replay(tmp_path / "replay.png", Figures(records), "title")
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")
