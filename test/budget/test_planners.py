# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.pace import Pace
from timebill_ros.budget.planners import (
    PLANNERS,
    FixedPlanner,
    TimeBillPlanner,
    VanillaPlanner,
    make_planner,
    minimal_alpha,
)
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import TimeModel

from .situations import MODEL, situation

models = st.builds(
    TimeModel,
    a=st.just(0.0),
    b=st.just(1e-5),
    c=st.just(0.0),
    p=st.floats(1e-9, 1e-5),
    q=st.floats(0.0, 1e-2),
    q_structured=st.floats(0.0, 1e-3),
    evict_rate=st.floats(0.0, 1e-6),
    evict_base=st.floats(0.0, 1e-3),
)
paces = st.builds(Pace, st.just(0.0) | st.floats(0.0, 3.0))


@given(
    model=models | models.map(TimeModel.structured),
    n_x=st.integers(32, 8192),
    n_w=st.integers(2, 512),
    share=st.floats(0.01, 0.99),
    pace=paces,
)
def test_alpha_star_put_back_into_equation_9_uses_the_budget_exactly(
    model: TimeModel, n_x: int, n_w: int, share: float, pace: Pace
) -> None:
    # A budget between what an empty and a full cache need, so that alpha* lies inside (0, 1).
    empty, full = model.decode(0, n_w), model.decode(n_x, n_w)
    work = model.evict(n_x) + empty + share * (full - empty)
    assume(work < full)
    remaining = pace.worst(work)
    s = situation(
        prompt_tokens=n_x, max_tokens=n_w, predicted_tokens=None, remaining=remaining, pace=pace
    )
    alpha = minimal_alpha(n_w, s, model)
    kept = (1.0 - alpha) * n_x
    worst = sum(model.p * (kept + i - 1) + model.q for i in range(1, n_w))
    assert pace.worst(worst + model.evict(n_x)) == pytest.approx(remaining, rel=1e-6)


def test_a_plan_tells_what_was_measured_at_its_ratio() -> None:
    curve = QualityCurve((QualityPoint(0.0, 90.0, 1.0, 0.0), QualityPoint(1.0, 50.0, 1.0, 0.0)))
    measured = replace(situation(), quality=LeverQuality(curve, measured=True))
    plan = FixedPlanner(alpha=0.25).plan(measured, MODEL)
    assert plan.score == pytest.approx(80.0)
    assert FixedPlanner(alpha=0.25).plan(situation(), MODEL).score is None


@given(
    model=models,
    n_x=st.integers(1, 8192),
    n_max=st.integers(1, 512),
    predicted=st.none() | st.integers(1, 512),
    window=st.integers(1, 64),
    remaining=st.floats(-1.0, 20.0),
    pace=paces,
)
def test_every_plan_keeps_the_contract(
    model: TimeModel,
    n_x: int,
    n_max: int,
    predicted: int | None,
    window: int,
    remaining: float,
    pace: Pace,
) -> None:
    planner = TimeBillPlanner(alpha_max=0.95, pessimism=2.0)
    s = situation(
        prompt_tokens=n_x,
        max_tokens=n_max,
        predicted_tokens=None if predicted is None else min(predicted, n_max),
        window=window,
        remaining=remaining,
        pace=pace,
    )
    plan = planner.plan(s, model)
    assert 0.0 <= plan.alpha <= 0.95
    assert min(n_x, window) <= plan.kept_tokens <= n_x
    assert plan.planned_tokens <= n_max
    evicts = plan.kept_tokens < n_x
    work = (model.evict(n_x) if evicts else 0.0) + model.decode(
        plan.kept_tokens, plan.planned_tokens
    )
    worst = pace.worst(work)
    assert plan.time_margin == pace.margin
    assert plan.feasible == (worst <= remaining + 1e-9)
    assert plan.wcet == pytest.approx(s.spent + worst)
    assert plan.predicted_time <= plan.wcet + 1e-12
    # Minimal: keeping one token more would miss, unless nothing was evicted at all.
    if plan.feasible and evicts and plan.alpha < 0.95:
        one_more = model.evict(n_x) + model.decode(plan.kept_tokens + 1, plan.planned_tokens)
        assert pace.worst(one_more) > remaining - 1e-9


def test_comfortable_budget_evicts_nothing() -> None:
    plan = TimeBillPlanner().plan(situation(remaining=10.0), MODEL)
    assert (plan.alpha, plan.kept_tokens, plan.feasible) == (0.0, 4000, True)


def test_tight_budget_evicts_just_enough() -> None:
    plan = TimeBillPlanner(pessimism=5.0).plan(situation(remaining=0.1), MODEL)
    assert 0.0 < plan.alpha < 0.95
    assert plan.feasible
    assert plan.wcet <= 0.2 + 0.1


@pytest.mark.parametrize("remaining", [0.01, 0.0, -3.0])
def test_hopeless_budget_plans_with_alpha_max_and_says_so(remaining: float) -> None:
    plan = TimeBillPlanner(alpha_max=0.9).plan(situation(remaining=remaining), MODEL)
    assert plan.alpha == 0.9
    assert plan.kept_tokens == 400
    assert not plan.feasible


def test_one_planned_token_makes_alpha_pointless() -> None:
    fits = TimeBillPlanner().plan(situation(max_tokens=1, predicted_tokens=1, remaining=0.0), MODEL)
    late = TimeBillPlanner().plan(situation(max_tokens=1, predicted_tokens=1, remaining=-1), MODEL)
    assert (fits.alpha, fits.feasible) == (0.0, True)
    assert (late.alpha, late.feasible) == (0.0, False)


def test_step_time_that_ignores_the_cache_makes_alpha_pointless() -> None:
    flat = TimeModel(1e-8, 1e-5, 2e-3, p=0.0, q=1e-3)
    plan = TimeBillPlanner().plan(situation(remaining=1e-3), flat)
    assert (plan.alpha, plan.feasible) == (0.0, False)


def test_prompt_shorter_than_the_window_is_never_evicted() -> None:
    plan = TimeBillPlanner().plan(situation(prompt_tokens=12, window=16, remaining=1e-6), MODEL)
    assert (plan.alpha, plan.kept_tokens, plan.feasible) == (0.0, 12, False)


def test_observation_window_is_kept_whatever_alpha_says() -> None:
    plan = FixedPlanner(alpha=0.99).plan(situation(prompt_tokens=200, window=32), MODEL)
    assert plan.kept_tokens == 32


def test_kept_tokens_are_rounded_down_but_not_by_float_noise() -> None:
    assert FixedPlanner(alpha=0.9).plan(situation(prompt_tokens=1000), MODEL).kept_tokens == 100
    assert FixedPlanner(alpha=0.5).plan(situation(prompt_tokens=1001), MODEL).kept_tokens == 500


def test_the_plan_s_alpha_is_the_share_that_is_really_evicted() -> None:
    plan = FixedPlanner(alpha=0.95).plan(situation(prompt_tokens=100, window=64), MODEL)
    assert (plan.kept_tokens, plan.alpha) == (64, pytest.approx(0.36))


@pytest.mark.parametrize(("planned", "evicts"), [(3, False), (6, False), (7, True), (400, True)])
def test_nothing_is_evicted_where_that_takes_longer_than_it_saves(
    planned: int, evicts: bool
) -> None:
    # 10 ms to evict; each step over 200 tokens instead of 4,000 is 1.9 ms shorter.
    model = TimeModel(0.0, 1e-5, 0.0, p=5e-7, q=1e-4, evict_base=0.01)
    plan = TimeBillPlanner().plan(
        situation(max_tokens=planned, predicted_tokens=None, remaining=0.004), model
    )
    assert (plan.alpha > 0.0) == evicts
    assert not plan.feasible
    assert plan.wcet <= 0.2 + model.decode(4000, planned)


def test_no_prediction_plans_for_n_max() -> None:
    plan = TimeBillPlanner().plan(situation(predicted_tokens=None), MODEL)
    assert (plan.predicted_tokens, plan.planned_tokens) == (0, 400)


def test_pessimism_scales_the_prediction_up_to_n_max() -> None:
    def planned(pessimism: float) -> int:
        return TimeBillPlanner(pessimism=pessimism).plan(situation(), MODEL).planned_tokens

    assert [planned(k) for k in (1.0, 1.5, 5.0, 50.0)] == [40, 60, 200, 400]


def test_vanilla_never_evicts_and_reports_the_miss() -> None:
    plan = VanillaPlanner().plan(situation(remaining=0.01), MODEL)
    assert (plan.planner, plan.alpha, plan.feasible) == ("vanilla", 0.0, False)


def test_eviction_time_is_part_of_the_plan() -> None:
    slow_eviction = TimeModel(1e-8, 1e-5, 2e-3, p=1e-7, q=3e-4, evict_base=0.02)
    without = TimeBillPlanner().plan(situation(remaining=0.1), MODEL)
    with_it = TimeBillPlanner().plan(situation(remaining=0.1), slow_eviction)
    assert with_it.alpha > without.alpha


@pytest.mark.parametrize("name", PLANNERS)
def test_planners_are_made_by_name(name: str) -> None:
    planner = make_planner(name, alpha_max=0.95, pessimism=5.0, risk=0.0, fixed_alpha=0.25)
    assert planner.plan(situation(), MODEL).planner == name


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"name": "greedy"},
            f"planner must be one of {', '.join(PLANNERS)}, not 'greedy'",
        ),
        ({"alpha_max": 1.0}, r"alpha_max must be in \[0, 1\), not 1.0"),
        ({"alpha_max": -0.1}, "alpha_max"),
        ({"alpha_max": math.nan}, "alpha_max"),
        ({"pessimism": 0.5}, "pessimism must be at least 1, not 0.5"),
        ({"name": "fixed", "fixed_alpha": 1.0}, "fixed_alpha"),
        ({"name": "vanilla", "pessimism": math.nan}, "pessimism"),
        ({"risk": 1.0}, r"risk must be in \[0, 1\), not 1.0"),
        ({"name": "fixed", "risk": -0.1}, "risk"),
        ({"name": "vanilla", "risk": math.nan}, "risk"),
    ],
)
def test_bad_settings_name_the_parameter_and_the_bound(settings: dict, named: str) -> None:
    good = {
        "name": "timebill",
        "alpha_max": 0.95,
        "pessimism": 5.0,
        "risk": 0.0,
        "fixed_alpha": 0.0,
    }
    with pytest.raises(SettingError, match=named):
        make_planner(**{**good, **settings})
