# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.coverage import Seen, observed_coverage
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.risk import LengthRisk, seen

LENGTHS = LengthDistribution(np.array([0.5, 0.4, 0.1]), 10)
# Twice as many responses are longer as predicted.
TWICE = Calibration(
    400, np.array([0.002, 0.02, 0.2, 0.999]), (30,), np.array([[0.001, 0.01, 0.1, 0.5]])
)
AS_STATED = observed_coverage([Seen(i / 100, complete=True) for i in range(1, 100)])


def test_without_calibration_and_surprises_the_prediction_is_taken_as_it_is() -> None:
    known = LengthRisk(LENGTHS, None, AS_STATED)
    # A stated 0.1 is within the next of 99 ranks.
    assert known.miss_probability(20) == pytest.approx(0.11)
    assert known.planned_tokens(0.11, max_tokens=400) == 20
    assert known.planned_tokens(0.10, max_tokens=400) == 21
    assert known.planned_tokens(0.11, max_tokens=15) == 15


def test_the_calibration_makes_the_plan_survive_more() -> None:
    known = LengthRisk(LENGTHS, TWICE, AS_STATED)
    assert known.miss_probability(20) == pytest.approx(0.21)
    assert known.planned_tokens(0.21, max_tokens=400) == 20
    assert known.planned_tokens(0.03, max_tokens=400) == 29


def test_surprises_make_the_plan_survive_more_still() -> None:
    surprised = observed_coverage([Seen(i / 1000, complete=True) for i in range(1, 100)])
    known = LengthRisk(LENGTHS, TWICE, surprised)
    assert known.miss_probability(29) == pytest.approx(0.21)
    assert known.planned_tokens(0.05, max_tokens=400) == 30


@pytest.mark.parametrize("risk", [1e-6, 0.0])
def test_a_risk_that_nothing_supports_plans_for_n_max(risk: float) -> None:
    for calibration in (None, TWICE):
        assert LengthRisk(LENGTHS, calibration, AS_STATED).planned_tokens(risk, 400) == 400
    assert LengthRisk(LENGTHS, TWICE, observed_coverage([])).planned_tokens(0.9, 400) == 400


@given(risk=st.floats(0.0, 0.99), calibrated=st.booleans())
def test_the_planned_length_is_the_smallest_within_the_risk(risk: float, calibrated: bool) -> None:
    # No score is met exactly, where the last bit would decide.
    off_grid = observed_coverage([Seen((i + 0.123) / 100, complete=True) for i in range(99)])
    known = LengthRisk(LENGTHS, TWICE if calibrated else None, off_grid)
    planned = known.planned_tokens(risk, max_tokens=400)
    if planned < 400:
        assert known.miss_probability(planned) <= risk + 1e-6
        assert planned == 1 or known.miss_probability(planned - 1) > risk - 1e-6


def test_what_a_response_adds() -> None:
    assert seen(LENGTHS, None, 11, complete=True) == (pytest.approx(0.5), True)
    assert seen(LENGTHS, None, 10, complete=False) == (pytest.approx(0.5), False)
    assert seen(LENGTHS, TWICE, 21, complete=True) == (pytest.approx(0.2), True)


def test_in_the_last_bucket_a_response_is_as_long_as_can_be_told() -> None:
    assert seen(LENGTHS, None, 30, complete=False) == (pytest.approx(0.01), True)
    assert seen(LENGTHS, None, 20, complete=False) == (pytest.approx(0.1), False)
