# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.risk import Coverage, LengthRisk, Observation, observed_coverage

LENGTHS = LengthDistribution(np.array([0.5, 0.4, 0.1]), 10)
# Twice as many responses are longer as predicted.
TWICE = Calibration(400, np.array([0.002, 0.02, 0.2, 0.999]), np.array([0.001, 0.01, 0.1, 0.5]))
AS_PREDICTED = observed_coverage([Observation(i / 100, complete=True) for i in range(1, 100)])
NOTHING = observed_coverage([])


def known(
    calibration: Calibration | None = None,
    coverage: Coverage = AS_PREDICTED,
    pit_share: float = 0.5,
) -> LengthRisk:
    return LengthRisk(LENGTHS, pit_share, calibration, coverage)


def test_without_calibration_and_surprises_the_prediction_is_taken_as_it_is() -> None:
    # Within the next of 99 ranks; half of the last bucket lies beyond 25 tokens.
    assert known().miss_probability(20) == pytest.approx(0.11)
    assert known().miss_probability(25) == pytest.approx(0.06)
    assert known().miss_probability(30) == pytest.approx(0.01)
    # For the plan, half of the last bucket's 0.1 counts.
    assert known().planned_tokens(0.06, max_tokens=400) == 20
    assert known().planned_tokens(0.05, max_tokens=400) == 30
    assert known().planned_tokens(0.06, max_tokens=15) == 15


def test_every_place_in_a_bucket_takes_its_part_of_the_risk() -> None:
    places = np.arange(100) / 100
    planned = [
        known(pit_share=pit_share).planned_tokens(0.3, max_tokens=400) for pit_share in places
    ]
    # P(N > 10) = 0.5 and P(N > 20) = 0.1: half of the 0.4 between them stays within 0.3.
    assert planned.count(10) == pytest.approx(50, abs=1)
    assert planned.count(20) == pytest.approx(50, abs=1)


def test_the_calibration_makes_the_plan_survive_more() -> None:
    assert known(TWICE).miss_probability(20) == pytest.approx(0.2, abs=0.011)
    assert known(None, pit_share=0.999).planned_tokens(0.15, max_tokens=400) == 20
    assert known(TWICE, pit_share=0.999).planned_tokens(0.15, max_tokens=400) == 30


def test_surprises_make_the_plan_survive_more_still() -> None:
    surprised = observed_coverage([Observation(i / 1000, complete=True) for i in range(1, 100)])
    assert known(TWICE, pit_share=0.1).planned_tokens(0.05, max_tokens=400) == 20
    assert known(TWICE, surprised, pit_share=0.1).planned_tokens(0.05, max_tokens=400) == 30
    assert known(TWICE, surprised).miss_probability(29) == pytest.approx(0.2, abs=0.011)


@pytest.mark.parametrize("risk", [1e-6, 0.0])
def test_a_risk_that_nothing_supports_plans_for_n_max(risk: float) -> None:
    for calibration in (None, TWICE):
        assert known(calibration).planned_tokens(risk, 400) == 400


def test_nothing_observed_knows_no_risk() -> None:
    assert known(TWICE, NOTHING).planned_tokens(0.9, 400) == 400
    assert known(TWICE, NOTHING).miss_probability(20) is None


@given(risk=st.floats(0.0, 0.99), calibrated=st.booleans(), pit_share=st.floats(0.0, 0.999))
def test_the_planned_length_is_the_smallest_within_the_risk(
    risk: float, calibrated: bool, pit_share: float
) -> None:
    # No score is met exactly, where the last bit would decide.
    off_grid = observed_coverage(
        [Observation((i + 0.123456) / 100, complete=True) for i in range(99)]
    )
    found = known(TWICE if calibrated else None, off_grid, pit_share)
    planned = found.planned_tokens(risk, max_tokens=400)

    def exceeded(tokens: int) -> float:
        return off_grid.risk(found.observation(tokens + 1, complete=True).predicted)

    if planned < 400:
        assert exceeded(planned) <= risk + 1e-6
        assert planned == 1 or exceeded(planned - 1) > risk - 1e-6


@pytest.mark.parametrize("risk", [0.1, 0.2, 0.4])
def test_the_risks_of_the_plans_are_on_average_what_was_asked_for(risk: float) -> None:
    many = observed_coverage([Observation(i / 1000, complete=True) for i in range(1, 1000)])
    risks = []
    for pit_share in np.arange(200) / 200:
        found = known(None, many, pit_share)
        risks.append(found.miss_probability(found.planned_tokens(risk, max_tokens=400)))
    assert np.mean(risks) == pytest.approx(risk, abs=0.01)


def test_what_a_response_adds() -> None:
    assert known().observation(11, complete=True) == (pytest.approx(0.3), True)
    assert known().observation(10, complete=False) == (pytest.approx(0.3), False)
    assert known(TWICE).observation(21, complete=True).predicted < 0.2


def test_in_the_last_bucket_a_response_is_as_long_as_can_be_told() -> None:
    assert known().observation(30, complete=False) == (pytest.approx(0.05), True)
    assert known().observation(20, complete=False) == (pytest.approx(0.05), False)
