# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.training.predictor.assessment import length_errors, length_quality

SECOND_OF_FIVE = LengthDistribution(np.eye(5)[1], 10)


def test_quality_of_a_known_prediction() -> None:
    quality = length_quality([SECOND_OF_FIVE] * 3, [15, 20, 25], max_tokens=50)
    assert quality.pairs == 3
    assert quality.mae == pytest.approx((5 + 0 + 5) / 3)
    assert quality.rmse == pytest.approx((50 / 3) ** 0.5)
    assert quality.r2 == pytest.approx(0.0)
    assert quality.bucket_accuracy == pytest.approx(2 / 3)
    assert quality.covered == pytest.approx(2 / 3)
    assert quality.mae_of_mean == pytest.approx(10 / 3)
    assert quality.mae_of_middle == pytest.approx((0.5 + 4.5 + 9.5) / 3)


def test_the_cap_bounds_predictions() -> None:
    quality = length_quality([SECOND_OF_FIVE] * 2, [15, 10], max_tokens=15)
    assert quality.mae == pytest.approx(2.5)
    assert quality.covered == 1.0


def test_equal_lengths_explain_nothing() -> None:
    rounded = length_quality([SECOND_OF_FIVE] * 2, [15, 15], max_tokens=50).rounded()
    assert rounded["r2"] is None
    assert rounded["mae"] == 5.0


def test_errors_of_known_lengths() -> None:
    errors = length_errors([10.0, 20.0, 60.0], [10, 20, 30])
    assert errors.mae == pytest.approx(10.0)
    assert errors.rmse == pytest.approx(300.0**0.5)
    assert errors.r2 == pytest.approx(1.0 - 900.0 / 200.0)
