# SPDX-License-Identifier: Apache-2.0
"""Planners where a risk is set for the length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import (
    FixedPlanner,
    TimeBillPlanner,
    make_planner,
    minimal_alpha,
)
from timebill_ros.budget.risk import LengthRisk, Observation, observed_coverage
from timebill_ros.budget.time_model import TimeModel

from .situations import MODEL, situation

LENGTHS = LengthDistribution(np.array([0.5, 0.4, 0.1]), 20)
RISK = LengthRisk(
    LENGTHS,
    0.5,
    None,
    observed_coverage([Observation(i / 100, complete=True) for i in range(1, 100)]),
)


@pytest.mark.parametrize("name", ["timebill", "fixed", "vanilla"])
def test_a_risk_replaces_pessimism(name: str) -> None:
    def planned(risk: float) -> tuple[int, float | None]:
        planner = make_planner(name, alpha_max=0.95, pessimism=5.0, risk=risk, fixed_alpha=0.25)
        plan = planner.plan(situation(length_risk=RISK), MODEL)
        return plan.planned_tokens, plan.risk

    assert planned(0.0) == (200, pytest.approx(0.01))
    assert planned(0.11) == (40, pytest.approx(0.11))
    assert planned(0.55) == (20, pytest.approx(0.51))
    # 99 responses do not show what happens once in a thousand.
    assert planned(0.001) == (400, 0.0)


# After large evictions one response in ten runs on to the end of the last bucket.
RUNS_ON = observed_coverage(
    [Observation(max(1e-6, i / 100 - 0.1), complete=True) for i in range(1, 100)]
)
AFTER_EVICTION = replace(RISK, coverage_of_evicted=RUNS_ON)


@pytest.mark.parametrize(
    ("share", "planned", "alpha", "feasible"),
    [
        (0.5, 40, 0.5, True),  # most is kept: N_W = 40
        (0.8, 60, None, False),  # 0.8 would be enough for 40 tokens, but 60 may come
        (1.5, 60, 0.95, False),
    ],
)
def test_a_large_eviction_is_planned_for_the_length_that_it_may_cause(
    share: float, planned: int, alpha: float | None, feasible: bool
) -> None:
    model = TimeModel(0.0, 1e-5, 0.0, p=1e-7, q=1e-4)
    n_x = 4000
    remaining = model.decode(round((1.0 - share) * n_x), 40)
    s = situation(remaining=remaining, length_risk=AFTER_EVICTION, prompt_tokens=n_x)
    plan = TimeBillPlanner(risk=0.11).plan(s, model)
    assert (plan.planned_tokens, plan.feasible) == (planned, feasible)
    # Where no ratio is enough for 60 tokens, that for 40 is tried.
    assert plan.alpha == pytest.approx(share if alpha is None else alpha, abs=1e-3)


def test_a_large_eviction_that_is_enough_for_the_longer_response_is_made() -> None:
    model = TimeModel(0.0, 1e-5, 0.0, p=1e-6, q=0.0)
    remaining = model.decode(960, 40)  # 0.76 of 4,000 for 40 tokens, 0.84 and more for 60
    s = situation(remaining=remaining, length_risk=AFTER_EVICTION)
    plan = TimeBillPlanner(risk=0.11).plan(s, model)
    assert (plan.planned_tokens, plan.feasible) == (60, True)
    assert plan.alpha == pytest.approx(minimal_alpha(60, s, model), abs=1e-3)


def test_a_fixed_ratio_is_planned_for_the_length_that_it_may_cause() -> None:
    s = situation(length_risk=AFTER_EVICTION)
    assert FixedPlanner(alpha=0.5, risk=0.11).plan(s, MODEL).planned_tokens == 40
    plan = FixedPlanner(alpha=0.9, risk=0.11).plan(s, MODEL)
    assert plan.planned_tokens == 60
    assert FixedPlanner(alpha=0.9, pessimism=1.0).plan(s, MODEL).risk > 0.11


def test_a_large_ratio_that_the_window_forbids_causes_nothing() -> None:
    s = situation(length_risk=AFTER_EVICTION, prompt_tokens=100, window=64)
    plan = FixedPlanner(alpha=0.9, risk=0.11).plan(s, MODEL)
    assert (plan.alpha, plan.planned_tokens) == (pytest.approx(0.36), 40)


def test_a_risk_without_a_prediction_plans_for_n_max() -> None:
    plan = TimeBillPlanner(risk=0.1).plan(situation(predicted_tokens=None), MODEL)
    assert (plan.planned_tokens, plan.risk) == (400, 0.0)


def test_the_risk_of_a_plan_is_not_known_without_observations() -> None:
    assert TimeBillPlanner(pessimism=2.0).plan(situation(), MODEL).risk is None
    assert TimeBillPlanner(pessimism=50.0).plan(situation(), MODEL).risk == 0.0
