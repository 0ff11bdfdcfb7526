# SPDX-License-Identifier: Apache-2.0
"""A request to plan for, with fields that a test may set."""

from __future__ import annotations

from timebill_ros.budget.pace import AS_PROFILED, Pace
from timebill_ros.budget.plan import Situation
from timebill_ros.budget.risk import LengthRisk
from timebill_ros.budget.time_model import TimeModel

MODEL = TimeModel(a=1e-8, b=1e-5, c=2e-3, p=1e-7, q=3e-4, evict_rate=1e-6, evict_base=1e-4)


def situation(
    *,
    prompt_tokens: int = 4000,
    max_tokens: int = 400,
    predicted_tokens: int | None = 40,
    window: int = 16,
    spent: float = 0.2,
    remaining: float = 1.0,
    length_risk: LengthRisk | None = None,
    pace: Pace = AS_PROFILED,
) -> Situation:
    return Situation(
        prompt_tokens, max_tokens, predicted_tokens, window, spent, remaining, length_risk, pace
    )
