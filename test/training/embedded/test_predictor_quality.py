# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.training.embedded import predictor_quality
from timebill_ros.training.embedded.generation import LONGEST_RESPONSE
from timebill_ros.training.embedded.lengths import TaskPair, write_pairs
from timebill_ros.training.embedded.predictor_quality import INPUTS, groups, measure
from timebill_ros.workload.tasks import Family

PAIRS = [
    TaskPair((3, 4, 5), 15, Family.LIST),
    TaskPair((3, 4), 20, Family.COUNT),
    TaskPair((3,), LONGEST_RESPONSE, Family.LIST),
]


class InputLengthPredictor:
    """Predicts ten tokens for every token that it may read."""

    bucket_size = 10

    def predict(
        self, text: str, prompt_ids: tuple[int, ...], max_input: int | None
    ) -> LengthDistribution:
        read = len(prompt_ids) if max_input is None else min(max_input, len(prompt_ids))
        return LengthDistribution(np.eye(5)[read - 1], self.bucket_size)


def test_the_limit_reaches_the_predictor() -> None:
    pairs = PAIRS[:2]
    assert measure(InputLengthPredictor(), pairs, 400).mae == pytest.approx((15 + 0) / 2)
    assert measure(InputLengthPredictor(), pairs, 400, max_input=1).mae == pytest.approx(15 / 2)


def test_pairs_are_grouped_by_family_and_by_how_they_ended() -> None:
    members = groups(PAIRS)
    assert members["all"] == PAIRS
    assert members["ended before the cap"] == PAIRS[:2]
    assert members["list"] == [PAIRS[0], PAIRS[2]]
    assert members["count"] == [PAIRS[1]]
    assert "report" not in members


def test_both_tables_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "held_out.npz", PAIRS)
    monkeypatch.setattr(sys, "argv", ["predictor_quality", "--pairs", str(tmp_path)])
    predictor_quality.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * 2 + len(groups(PAIRS)) + len(INPUTS)
    assert any(row.startswith("| list | 2 |") for row in rows)
