# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.bench.intervals import interval_of_share
from timebill_ros.bench.measure_quality import eviction_curve, selection_curve
from timebill_ros.bench.outcomes import Row
from timebill_ros.bench.report import (
    Results,
    draw_budgets,
    draw_pessimism,
    tables,
    write_means,
    write_rows,
)

from .made_up import CASES, SHARES

DRAWS = np.random.default_rng(0)
ROWS = [
    Row("kill", budget, method, f"c{i}", "in time" if score else "killed", score)
    for method, gain in (("vanilla", 0.0), ("timebill-k1", 5.0), ("expected", 20.0))
    for budget in (1.0, 2.0)
    for i, score in enumerate(gain + 10.0 * budget + np.arange(30.0))
]


def test_means_and_completion_by_method_and_budget() -> None:
    results = Results.of(ROWS, "kill")
    assert results.scores.shape == (3, 2, 30)
    np.testing.assert_allclose(results.scores.mean(axis=2)[0], [24.5, 34.5])
    assert results.in_time.all()


def test_a_difference_is_paired() -> None:
    results = Results.of(ROWS, "kill")
    # The same for every case, whichever are drawn.
    assert results.difference("expected", "vanilla") == pytest.approx((20.0, 20.0, 20.0))


def test_an_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    held = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(3.0, 10.0, 40)
        rows = [Row("kill", 1.0, "vanilla", str(i), "in time", 50.0) for i in range(40)]
        rows += [
            Row("kill", 1.0, "expected", str(i), "in time", 50.0 + x) for i, x in enumerate(noise)
        ]
        _, low, high = Results.of(rows, "kill").difference("expected", "vanilla")
        held += low <= 3.0 <= high
    assert 86 <= held <= 100


def test_the_interval_of_a_share_solves_wilson_s_equation() -> None:
    """Its ends are the shares p from which what was seen is 1.96 standard errors of p away."""
    for end in interval_of_share(3, 49):
        assert abs(3 / 49 - end) == pytest.approx(1.96 * (end * (1.0 - end) / 49) ** 0.5)
    assert interval_of_share(0, 10)[0] == 0.0
    assert interval_of_share(10, 10)[1] == 1.0


def test_the_table_names_methods_budgets_and_intervals() -> None:
    text = "\n".join(tables(ROWS, {1.0: "0.5: 1 s"}))
    assert "| plan | 0.5: 1 s | 2 s | mean | against vanilla | in time |" in text
    assert "| expected, both levers | 44.5 | 54.5 | **49.5** | +20.0 (+20.0 to +20.0) |" in text


def test_what_the_deadline_cut_is_in_time_and_told_apart() -> None:
    rows = [
        Row("anytime", 1.0, "vanilla", str(i), outcome, 50.0)
        for i, outcome in enumerate(["in time", "truncated", "truncated", "killed"])
    ]
    text = "\n".join(tables(rows, {}))
    assert "| plan | 1 s | mean | against vanilla | in time | cut |" in text
    assert "| vanilla | 50.0 | **50.0** |  | 75.0% | 50.0% |" in text


def test_differences_to_another_method() -> None:
    text = "\n".join(tables(ROWS, {}, "timebill-k1"))
    assert "| against timebill, k = 1 |" in text
    assert "| vanilla | 24.5 | 34.5 | **29.5** | -5.0 (-5.0 to -5.0) |" in text


def test_files_have_a_line_for_every_row_and_mean(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", ROWS)
    write_means(tmp_path / "means.csv", ROWS)
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(ROWS)
    with (tmp_path / "means.csv").open() as file:
        means = list(csv.DictReader(file))
    assert len(means) == 6
    assert means[0] == {
        "policy": "kill",
        "method": "vanilla",
        "budget": "1",
        "cases": "30",
        "score": "24.5",
        "in_time": "1",
    }


def test_pictures_are_written(tmp_path: Path) -> None:
    draw_budgets(tmp_path / "budgets.png", ROWS)
    draw_pessimism(tmp_path / "pessimism.png", ROWS)
    for name in ("budgets", "pessimism"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_the_means_of_the_answers() -> None:
    evicted = eviction_curve(CASES, [0.5, 0.0])
    assert [(point.dropped, point.score) for point in evicted.points] == [(0.0, 100.0), (0.5, 90.0)]
    selected = selection_curve(CASES, SHARES)
    assert [(p.dropped, p.score) for p in selected.points] == [
        (0, 100.0),
        (0.5, 90.0),
        (0.75, 80.0),
    ]
