# SPDX-License-Identifier: Apache-2.0
"""Answers that the deadline cuts, and the planner by the expected score: against counting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.expected import ALPHAS, ExpectedPlanner
from timebill_ros.budget.plan import Situation, kept_tokens
from timebill_ros.budget.quality import CutPoint, CutWorth
from timebill_ros.budget.time_model import TimeModel

from .situations import MODEL
from .weighed import QUALITY, known, risk_of

CUT = CutWorth((CutPoint(0.25, 0.1, 0.0), CutPoint(0.5, 0.7, 0.0), CutPoint(0.75, 0.8, 0.0)))


def worth_with_cuts(s: Situation, model: TimeModel, alpha: float, left: float) -> float:
    """By counting every length that the answer may have."""
    kept = kept_tokens(alpha, s)
    if kept < s.prompt_tokens:
        left -= model.evict(s.prompt_tokens)
    fitting = 0
    while fitting < s.max_tokens and model.decode(kept, fitting + 1) <= left + 1e-9:
        fitting += 1
    if left < -1e-9:
        fitting = 0
    evicted = 1.0 - kept / s.prompt_tokens
    assert s.quality is not None
    assert s.length_risk is not None
    ends = 1.0 - float(s.quality.runs_on(1.0, evicted))
    by = [1.0 - float(s.length_risk.lengths.beyond(m)) for m in range(s.max_tokens + 1)]
    worth, before = 0.0, 0.0
    for m in range(1, s.max_tokens + 1):
        by_m = 1.0 if m == s.max_tokens else ends * by[m]
        worth += (by_m - before) * float(CUT.at(min(1.0, fitting / m)))
        before = by_m
    return float(s.quality.score(1.0, evicted)) * worth


@given(
    st.floats(-0.01, 0.06),
    st.integers(20, 8000),
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
)
def test_what_the_deadline_cuts_counts_with_its_worth(
    left: float, n_x: int, weights: list[float]
) -> None:
    s = known(
        left,
        prompt_tokens=n_x,
        max_tokens=40,
        risk=risk_of(np.array(weights) / sum(weights)),
        quality=replace(QUALITY, cut=CUT),
    )
    plan = ExpectedPlanner().plan(replace(s, anytime=True), MODEL)
    scores = [worth_with_cuts(s, MODEL, alpha, left) for alpha in ALPHAS]
    assert plan.expected_score == pytest.approx(max(scores), abs=1e-6)
    # Who takes whole answers only has nothing of it.
    assert ExpectedPlanner().plan(s, MODEL) == ExpectedPlanner().plan(
        replace(s, quality=QUALITY), MODEL
    )


def test_what_is_cut_is_worth_waiting_for_while_decoding() -> None:
    long = risk_of(np.eye(25)[24])  # 385 to 400 tokens
    s = known(0.1, risk=long, quality=replace(QUALITY, cut=CUT))
    # By counting tokens: at 100 of them no eviction saves the whole answer.
    assert ExpectedPlanner().ahead(s, MODEL, 100, 4000) == ()
    ahead = ExpectedPlanner().ahead(replace(s, anytime=True), MODEL, 100, 4000)
    chosen = ahead[-1].kept_tokens if ahead else 4000
    worths = {}
    for kept in {4000, *(kept_tokens(alpha, s) for alpha in ALPHAS)}:
        spare = 0.1 - (MODEL.evict(4000) if kept < 4000 else 0.0)
        reached = 100
        while spare >= MODEL.step(kept + reached - 1) - 1e-9:
            spare -= MODEL.step(kept + reached - 1)
            reached += 1
        evicted = 1.0 - kept / 4000
        ends = 1.0 - float(QUALITY.runs_on(1.0, evicted))
        later = ends * float(np.mean(CUT.at(reached / np.arange(385.0, 401.0))))
        later += (1.0 - ends) * float(CUT.at(reached / 400.0))
        worths[kept] = float(QUALITY.score(1.0, evicted)) * later
    assert chosen == max(worths, key=lambda kept: (worths[kept], kept))
