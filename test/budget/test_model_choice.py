# SPDX-License-Identifier: Apache-2.0
"""Which of several models the planner asks: against brute force over models, rho and alpha."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.expected import ALPHAS, SHARES, ExpectedPlanner
from timebill_ros.budget.plan import ModelOption
from timebill_ros.budget.planners import FixedPlanner, TimeBillPlanner, VanillaPlanner
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint

from .situations import MODEL
from .weighed import FALLING, STEP, calibrated, expected_score, known, risk_of

FAST = MODEL.slowed(0.3, 0.2)


@given(
    st.floats(0.0, 0.4),
    st.integers(20, 8000),
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
    st.floats(0.3, 1.1),
)
def test_model_and_rho_are_the_best_of_the_grid(
    left: float, n_x: int, weights: list[float], worth: float
) -> None:
    large = known(
        left, prompt_tokens=n_x, max_tokens=40, risk=risk_of(np.array(weights) / sum(weights))
    )
    scaled = QualityCurve(
        tuple(replace(point, score=min(100.0, worth * point.score)) for point in FALLING.points)
    )
    # What a smaller model has of its own: vocabulary, lengths, quality and times.
    small = replace(
        large,
        prompt_tokens=n_x + n_x // 10,
        length_risk=risk_of(np.array(weights[::-1]) / sum(weights)),
        quality=LeverQuality(scaled, FALLING, measured=True),
    )
    models = [(large, MODEL), (small, FAST)]
    chosen = ExpectedPlanner().choose([ModelOption(s, times, SHARES) for s, times in models])
    values = {}
    for number, (s, times) in enumerate(models):
        for rho in SHARES:
            kept = max(1, math.ceil(rho * s.prompt_tokens))
            rest = left - times.prefill(kept)
            values[number, rho] = max(expected_score(s, times, rho, a, rest, kept) for a in ALPHAS)
    best = max(values.values())
    if best > 0.0:
        assert values[chosen] == pytest.approx(best, abs=1e-6)
        dearer = list(values)[: list(values).index(chosen)]
        assert all(values[levers] < best for levers in dearer)
    else:
        assert chosen == (1, SHARES[-1])


def test_of_equally_good_models_the_larger_answers() -> None:
    ample = known(100.0, risk=risk_of(np.full(25, 0.04)))
    options = [ModelOption(ample, MODEL, SHARES), ModelOption(ample, FAST, SHARES)]
    assert ExpectedPlanner().choose(options) == (0, 1.0)
    # A better model that is slower wins while it is in time, whatever its place.
    assert ExpectedPlanner().choose(options[::-1]) == (0, 1.0)
    poor = replace(ample, quality=LeverQuality(STEP, measured=True))
    better = replace(ample, quality=LeverQuality(measured=True))
    assert ExpectedPlanner().choose([ModelOption(poor, FAST), ModelOption(better, MODEL)]) == (
        1,
        1.0,
    )


def test_a_risk_that_only_the_smaller_model_keeps_is_kept() -> None:
    even = known(0.22, risk=calibrated(risk_of(np.full(25, 0.04))))
    bad = replace(
        even, quality=LeverQuality(QualityCurve((QualityPoint(0.0, 5.0, 1.0, 0.0),)), measured=True)
    )
    options = [ModelOption(even, MODEL), ModelOption(bad, FAST)]
    assert ExpectedPlanner().choose(options).model == 0
    assert ExpectedPlanner(risk=0.05).choose(options).model == 1


def test_other_planners_ask_the_largest_model_for_the_whole_prompt() -> None:
    late = known(-1.0)
    for planner in (TimeBillPlanner(), FixedPlanner(0.5), VanillaPlanner()):
        options = [ModelOption(late, MODEL, SHARES), ModelOption(late, FAST, SHARES)]
        assert planner.choose(options) == (0, 1.0)


def test_a_plan_names_its_model() -> None:
    s = replace(known(0.3, risk=risk_of(np.eye(3)[0])), model="small")
    for planner in (ExpectedPlanner(), TimeBillPlanner()):
        assert planner.plan(s, FAST).model == "small"
