# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.training.embedded.generation import CHECKPOINT
from timebill_ros.training.embedded.lengths import TaskPair
from timebill_ros.training.embedded.train_predictor import (
    LONGEST_EXPECTED_PROMPT,
    SCENELESS,
    SCENELESS_PAIRS,
    calibrate,
    expected_pairs,
)
from timebill_ros.workload.tasks import Family


class FixedPredictor:
    """Holds 15 tokens or less for as probable as more."""

    bucket_size = 15

    def predict(
        self, text: str, prompt_ids: tuple[int, ...], max_input: int | None
    ) -> LengthDistribution:
        return LengthDistribution(np.array([0.5, 0.5]), self.bucket_size)


def test_some_expected_prompts_have_no_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timebill_ros.training.embedded.train_predictor.EXPECTED_PAIRS", 60)
    pairs = expected_pairs(load_checkpoint(CHECKPOINT))
    bare = [pair for pair in pairs if len(pair.prompt_ids) < 60]
    assert 0 < len(bare) <= SCENELESS_PAIRS
    assert {pair.family for pair in bare} <= set(SCENELESS)
    assert len(pairs) == 60 + len(bare)
    assert max(len(pair.prompt_ids) for pair in pairs) <= LONGEST_EXPECTED_PROMPT + 32


def test_calibration_tells_what_a_probability_is_worth() -> None:
    lengths = [10] * 90 + [20] * 10
    pairs = [TaskPair((1,), n, Family.REPORT) for n in lengths]
    calibration = calibrate(FixedPredictor(), pairs)
    assert calibration.pairs == 100
    assert calibration.calibrated(0.5) == pytest.approx(0.1, abs=0.05)
