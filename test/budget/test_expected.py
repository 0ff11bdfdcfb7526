# SPDX-License-Identifier: Apache-2.0
"""The planner by the expected score: against brute force, and in the limit of equation (11)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.expected import ALPHAS, SHARES, ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import (
    Eviction,
    ModelOption,
    Situation,
    kept_tokens,
    minimal_alpha,
    seconds_of,
)
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.risk import Coverage, LengthRisk, Observation, observed_coverage
from timebill_ros.budget.time_model import TimeModel

from .situations import MODEL
from .weighed import STEP, calibrated, expected_score, known, risk_of, short_answers


def share_of(s: Situation) -> float:
    """rho with one model."""
    return ExpectedPlanner().choose([ModelOption(s, MODEL, SHARES)]).share


@given(
    st.floats(-0.01, 0.06),
    st.integers(20, 8000),
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
)
def test_alpha_is_the_best_of_the_grid(left: float, n_x: int, weights: list[float]) -> None:
    s = short_answers(left, n_x, weights)
    plan = ExpectedPlanner().plan(s, MODEL)
    scores = [expected_score(s, MODEL, 1.0, alpha, left, n_x) for alpha in ALPHAS]
    assert plan.expected_score == pytest.approx(max(scores), abs=1e-6)
    if max(scores) > 0.0:
        best = next(i for i, score in enumerate(scores) if score >= max(scores) - 1e-9)
        assert plan.kept_tokens == kept_tokens(ALPHAS[best], s)


@given(
    st.floats(0.0, 0.4),
    st.integers(20, 8000),
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
)
def test_rho_is_the_best_of_the_grid(left: float, n_x: int, weights: list[float]) -> None:
    s = short_answers(left, n_x, weights)
    chosen = share_of(s)
    values = {}
    for rho in SHARES:
        kept = max(1, math.ceil(rho * n_x))
        rest = left - MODEL.prefill(kept)
        values[rho] = max(expected_score(s, MODEL, rho, a, rest, kept) for a in ALPHAS)
    best = max(values.values())
    if best > 0.0:
        assert values[chosen] == pytest.approx(best, abs=1e-6)
        assert all(values[rho] < best for rho in SHARES if rho > chosen)
    else:
        assert chosen == SHARES[-1]


def test_selection_breaks_the_prefix_and_eviction_does_not() -> None:
    # 4,000 tokens take 0.202 s to prefill, of which the last 500 take 0.045 s.
    tight = known(0.12, max_tokens=40, risk=risk_of(np.eye(3)[0]))
    assert share_of(tight) < 1.0
    kept = replace(tight, reused_tokens=3500)
    assert share_of(kept) == 1.0
    # What selection leaves is prefilled as if nothing were kept.
    least = replace(kept, remaining=0.04)
    assert MODEL.prefill(1000) < 0.04 < MODEL.prefill(4000, 3500)
    fresh = replace(least, reused_tokens=0)
    chosen = share_of(least)
    assert chosen == share_of(fresh) < 1.0
    assert ExpectedPlanner().plan(kept, MODEL).reused_tokens == 3500


def assured(risk: LengthRisk) -> LengthRisk:
    """Where what is stated below one half was never seen to happen."""
    return replace(risk, coverage=Coverage(np.array([0.5]), np.array([0.0])))


@given(
    st.floats(0.05, 0.4),
    st.integers(100, 8000),
    st.integers(2, 400),
    st.sampled_from([0.01, 0.2]),
)
def test_with_one_length_and_a_risk_it_is_equation_11(
    left: float, n_x: int, response_tokens: int, risk: float
) -> None:
    certain = assured(risk_of(np.eye(400)[response_tokens - 1], bucket_size=1))
    s = known(left, prompt_tokens=n_x, risk=certain, quality=LeverQuality(STEP))
    plan = ExpectedPlanner(risk=risk).plan(s, MODEL)
    alpha = minimal_alpha(response_tokens, s, MODEL)
    if s.evictable(alpha) == alpha and alpha <= 0.95:
        assert plan.feasible
        assert plan.kept_tokens == kept_tokens(alpha, s)
    else:
        assert not plan.feasible


def test_a_risk_is_kept_where_it_can_be() -> None:
    even = known(0.22, risk=calibrated(risk_of(np.full(25, 0.04))))
    free = ExpectedPlanner().plan(even, MODEL)
    careful = ExpectedPlanner(risk=0.05).plan(replace(even, remaining=0.3), MODEL)
    hopeless = ExpectedPlanner(risk=0.05).plan(replace(even, remaining=0.05), MODEL)
    assert free.risk is not None
    assert careful.risk is not None
    assert careful.risk <= 0.05
    assert careful.feasible
    assert not hopeless.feasible
    least = min(
        ExpectedPlanner(alpha_max=a).plan(replace(even, remaining=0.05), MODEL).risk or 0.0
        for a in ALPHAS
    )
    assert hopeless.risk <= least


def test_ties_go_to_the_dearer() -> None:
    plan = ExpectedPlanner().plan(known(100.0, risk=risk_of(np.full(25, 0.04))), MODEL)
    assert (plan.alpha, plan.risk, plan.planned_tokens) == (0.0, 0.0, 400)
    assert plan.expected_score == 90.0
    assert share_of(known(100.0)) == 1.0


def test_where_nothing_is_in_time_the_shortest_is_tried() -> None:
    late = known(-1.0, risk=risk_of(np.full(25, 0.04)))
    plan = ExpectedPlanner().plan(late, MODEL)
    assert not plan.feasible
    assert plan.expected_score == 0.0
    assert share_of(late) == SHARES[-1]


def test_without_a_prediction_recent_lengths_count() -> None:
    short = LengthDistribution(np.array([1.0, 0.0]), 8)
    blind = known(0.05)
    recent = replace(blind, prior=short)
    assert ExpectedPlanner().plan(recent, MODEL).risk == pytest.approx(0.0)
    nothing_known = ExpectedPlanner().plan(blind, MODEL).risk
    assert nothing_known is not None
    assert nothing_known > 0.5


def test_an_unmeasured_model_has_no_score_but_an_expected_one() -> None:
    plan = ExpectedPlanner().plan(
        known(0.3, risk=risk_of(np.full(25, 0.04)), quality=LeverQuality()), MODEL
    )
    assert plan.score is None
    assert plan.expected_score is not None


@pytest.mark.parametrize(("alpha_max", "risk"), [(1.0, 0.0), (-0.1, 0.0), (0.9, 1.0), (0.9, -0.1)])
def test_settings_out_of_bounds_are_named(alpha_max: float, risk: float) -> None:
    with pytest.raises(SettingError):
        ExpectedPlanner(alpha_max, risk)


def test_a_few_responses_do_not_overrule_the_prediction() -> None:
    sharp = risk_of(np.eye(25)[1])  # 17 to 32 tokens
    once = replace(sharp, coverage=observed_coverage([Observation(0.5, complete=True)]))
    tokens, alphas = np.array([10, 40]), np.zeros(2)
    np.testing.assert_allclose(once.probability_beyond(tokens, alphas), [1.0, 0.5 / 21.0])
    often = [Observation(0.0, complete=True)] * 980
    wrong = replace(sharp, coverage=observed_coverage(often))
    assert wrong.probability_beyond(tokens, alphas)[1] > 0.9


def kept_by_counting(s: Situation, model: TimeModel, reached: int, kept: int) -> dict[int, float]:
    """What every further eviction is worth, token after token until the time is over."""
    n_x, worth = s.prompt_tokens, {}
    assert s.quality is not None
    assert s.length_risk is not None
    for fewer in {kept} | {k for a in ALPHAS if (k := kept_tokens(a, s)) < kept}:
        left = s.remaining - (model.evict(n_x) if fewer < kept else 0.0)
        tokens = reached
        while tokens < s.max_tokens:
            left -= model.step(fewer + tokens - 1)
            if left < -1e-9:
                break
            tokens += 1
        evicted = 1.0 - fewer / n_x
        ends = 1.0 - float(s.quality.runs_on(1.0, evicted))
        now, then = (
            ends * (1.0 - float(s.length_risk.lengths.beyond(t))) for t in (reached, tokens)
        )
        in_time = 1.0 if tokens == s.max_tokens else (then - now) / (1.0 - now)
        worth[fewer] = float(s.quality.score(1.0, evicted)) * in_time
    return worth


@given(
    st.floats(0.0, 0.06),
    st.integers(200, 8000),
    st.integers(2, 39),
    st.floats(0.3, 1.0),
    st.lists(st.floats(0.01, 1.0), min_size=3, max_size=5),
)
def test_what_stays_while_decoding_is_the_best_of_the_grid(
    left: float, n_x: int, reached: int, share: float, weights: list[float]
) -> None:
    s = short_answers(left, n_x, weights)
    kept = max(s.smallest_kept(), int(share * n_x))
    ahead = ExpectedPlanner().ahead(s, MODEL, reached, kept)
    assert all(at_token == reached for at_token, _ in ahead)
    chosen = ahead[-1].kept_tokens if ahead else kept
    worth = kept_by_counting(s, MODEL, reached, kept)
    assert chosen <= kept
    assert worth[chosen] == pytest.approx(max(worth.values()), abs=1e-6)
    if chosen < kept:
        assert worth[chosen] > worth[kept]


def test_the_time_of_a_schedule_is_the_sum_of_its_steps() -> None:
    plan = ExpectedPlanner().plan(known(100.0, risk=risk_of(np.full(25, 0.04))), MODEL)
    evictions = (Eviction(1, 3000), Eviction(16, 2000), Eviction(32, 500))
    plan = plan.with_evictions(evictions, None)
    for reached in (1, 2, 16, 17, 40):
        due = [kept for at_token, kept in plan.evictions if at_token <= reached]
        steps = sum(MODEL.step(plan.kept_at(t) + t - 1) for t in range(1, reached))
        expected = steps + len(due) * MODEL.evict(4000)
        assert seconds_of(evictions, 4000, reached, MODEL) == pytest.approx(expected)
    assert plan.kept_tokens == plan.kept_at(32) == 500
