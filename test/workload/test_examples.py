# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timebill_ros.workload.score import METRICS
from timebill_ros.workload.tasks import DEFAULT_MIX, Family, examples, sample_task

PAGE = (Path(__file__).parents[2] / "docs" / "workload.md").read_text()


def test_the_page_shows_a_task_of_every_family() -> None:
    shown = examples()
    assert PAGE.endswith(shown)
    for family in Family:
        assert f"**{family}**" in shown


@pytest.mark.parametrize("family", list(Family))
def test_the_page_tells_lengths_share_and_metric(family: Family) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {family} |"))
    lengths, share, metric = (cell.strip() for cell in row.split("|")[3:6])
    assert share == f"{DEFAULT_MIX[family]:.0%}".replace("%", " %")
    assert metric.lower().replace("-", "_").replace(" ", "_") == METRICS[family].__name__
    rng = np.random.default_rng(0)
    drawn = [sample_task(rng, family, 900).reference_tokens for _ in range(150)]
    bounds = [int(n) for n in lengths.split(" to ")]
    assert min(drawn) >= bounds[0]
    assert max(drawn) <= bounds[-1]
    if family is not Family.REPORT:
        assert (min(drawn), max(drawn)) == (bounds[0], bounds[-1])
