# SPDX-License-Identifier: Apache-2.0
"""Schedules of evictions, made in advance: against counting, and where they come to one ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.expected import ALPHAS, CHECKPOINT, ExpectedPlanner
from timebill_ros.budget.plan import Eviction, Situation, kept_tokens, minimal_alpha, seconds_of
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.risk import Coverage
from timebill_ros.budget.time_model import TimeModel

from .situations import MODEL
from .weighed import FALLING, known, risk_of, short_answers

HEDGED = ExpectedPlanner(hedges=True)
LATER = (16, 32)  # the checkpoints before 40 tokens
NOTHING_RUNS_ON = LeverQuality(
    replace(FALLING, points=tuple(replace(point, ran_to_cap=0.0) for point in FALLING.points)),
    measured=True,
)


def by_counting(s: Situation, model: TimeModel, evictions: Sequence[Eviction]) -> float:
    """The expected score of a schedule, token after token until the time is over."""
    assert s.quality is not None
    assert s.length_risk is not None
    longer = s.length_risk.lengths.beyond(np.arange(s.max_tokens + 1))
    due, n_x = dict(evictions), s.prompt_tokens
    kept = due.pop(1, n_x)
    left = s.remaining - (model.evict(n_x) if kept < n_x else 0.0)
    score, ended = 0.0, 0.0
    for tokens in range(1, s.max_tokens + 1):
        if tokens > 1:
            left -= model.step(kept + tokens - 2)
        if left < -1e-9:
            break
        evicted = 1.0 - kept / n_x
        ends = 1.0 - float(s.quality.runs_on(1.0, evicted))
        here = ends * (longer[tokens - 1] - longer[tokens])
        here = here if tokens < s.max_tokens else 1.0 - ended
        score += float(s.quality.score(1.0, evicted)) * here
        ended += here
        if tokens in due:
            kept = due[tokens]
            left -= model.evict(n_x)
    return score


def grid(s: Situation) -> list[tuple[Eviction, ...]]:
    """Every schedule of at most two evictions."""
    n_x = s.prompt_tokens
    keeps = sorted({n_x, *(kept_tokens(alpha, s) for alpha in ALPHAS)}, reverse=True)
    every: list[tuple[Eviction, ...]] = []
    for now in keeps:
        first = (Eviction(1, now),) if now < n_x else ()
        every.append(first)
        every += [(*first, Eviction(t, then)) for t in LATER for then in keeps if then < now]
    return every


@given(
    st.floats(0.0, 0.06),
    st.integers(20, 8000),
    st.lists(st.floats(0.01, 1.0), min_size=3, max_size=5),
)
def test_the_schedule_is_the_best_of_the_grid(left: float, n_x: int, weights: list[float]) -> None:
    s = short_answers(left, n_x, weights)
    plan = HEDGED.plan(s, MODEL)
    worths = [by_counting(s, MODEL, evictions) for evictions in grid(s)]
    assert plan.planner == "hedged"
    assert plan.expected_score == pytest.approx(max(worths), abs=1e-6)
    if plan.expected_score:
        worth = by_counting(s, MODEL, plan.evictions)
        assert worth == pytest.approx(plan.expected_score, abs=1e-6)


@given(st.floats(0.05, 0.4), st.integers(100, 8000), st.integers(2, 400))
def test_with_one_length_it_is_the_constant_alpha_of_equation_11(
    left: float, n_x: int, response_tokens: int
) -> None:
    """S(t) = 1 up to N: to put anything off would only mean to evict more in the end."""
    certain = risk_of(np.eye(400)[response_tokens - 1], bucket_size=1)
    certain = replace(certain, coverage=Coverage(np.array([0.5]), np.array([0.0])))
    s = known(left, prompt_tokens=n_x, risk=certain, quality=NOTHING_RUNS_ON)
    alpha = minimal_alpha(response_tokens, s, MODEL)
    if s.evictable(alpha) == alpha and alpha <= 0.95:
        plan = replace(HEDGED, risk=0.01).plan(s, MODEL)
        kept = kept_tokens(alpha, s)
        assert plan.feasible
        assert plan.evictions == ((Eviction(1, kept),) if kept < n_x else ())


@given(st.floats(-0.01, 0.06), st.integers(20, 8000), st.integers(1, CHECKPOINT))
def test_before_the_first_checkpoint_there_is_one_eviction(
    left: float, n_x: int, most: int
) -> None:
    s = known(left, prompt_tokens=n_x, max_tokens=most, risk=risk_of([0.3, 0.7], bucket_size=8))
    single = ExpectedPlanner().plan(s, MODEL)
    assert HEDGED.plan(s, MODEL) == replace(single, planner="hedged")


def test_what_ends_early_is_not_evicted_for_what_may_come() -> None:
    """Half of the answers end within 16 tokens: the others are evicted once they are longer."""
    s = known(0.1, max_tokens=400, risk=risk_of([0.5, *[0.0] * 8, 0.5]))
    single, plan = ExpectedPlanner().plan(s, MODEL), HEDGED.plan(s, MODEL)
    assert [at_token for at_token, _ in single.evictions] == [1]
    assert min(at_token for at_token, _ in plan.evictions) == CHECKPOINT
    assert plan.expected_score is not None
    assert single.expected_score is not None
    assert plan.expected_score > single.expected_score + 1.0
    worst = seconds_of(plan.evictions, 4000, plan.planned_tokens, MODEL)
    assert plan.wcet == pytest.approx(s.spent + worst)
    assert worst <= s.remaining
    assert plan.kept_tokens == plan.evictions[-1].kept_tokens == plan.kept_at(400)
    assert plan.alpha == pytest.approx(1.0 - plan.kept_tokens / 4000)


@given(st.floats(0.0, 0.3), st.integers(2, 399), st.floats(0.2, 1.0))
def test_evictions_are_nested_and_lie_ahead(left: float, reached: int, share: float) -> None:
    s = known(left, risk=risk_of(np.full(25, 0.04)))
    kept = int(4000 * share)
    ahead = HEDGED.ahead(s, MODEL, reached, kept)
    assert len(ahead) <= 2
    assert all(reached <= at_token < 400 for at_token, _ in ahead)
    for first, second in pairwise([Eviction(0, kept), *ahead]):
        assert first.at_token < second.at_token
        assert first.kept_tokens > second.kept_tokens
