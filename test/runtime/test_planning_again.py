# SPDX-License-Identifier: Apache-2.0
"""Planning again while decoding, in virtual time: from the time that is really left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.runtime.outcome import Overrun, Response
from timebill_ros.runtime.simulation import certain_length

from .simulated import Scene

# Prefill of 1,000 tokens 10 ms, a step over them 1 ms: all of it reading the cache.
READING = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-6, q=0.0, evict_rate=1e-6)
QUALITY = LeverQuality(
    QualityCurve((QualityPoint(0.0, 100.0, 0.0, 0.0), QualityPoint(0.95, 60.0, 0.0, 0.0))),
    measured=True,
)


def scene(planner: object, slowness: Callable[[], float] = lambda: 1.0) -> Scene:
    made = Scene(
        time_model=READING,
        planner=planner,  # type: ignore[arg-type]
        predictor_time=Quadratic(0.0, 0.0, 1e-3),
        quality=QUALITY,
        slowness=slowness,
    )
    # Whole: 10 ms of prefill and 99 steps over 1,000 tokens and the response, 103.851 ms.
    made.job(
        "a", budget_ms=120, response_tokens=100, max_tokens=400, lengths=certain_length(100, 4)
    )
    return made


def slow_decoding(made: list[Scene]) -> float:
    """Half as slow again, once the prompt is prefilled."""
    return 1.5 if made and made[0].engine.response_tokens else 1.0


def on_a_slow_machine(planner: object) -> Scene:
    made: list[Scene] = []
    made.append(scene(planner, lambda: slow_decoding(made)))
    made[0].run()
    return made[0]


def test_a_slow_machine_is_caught_early() -> None:
    found = on_a_slow_machine(ExpectedPlanner()).outcomes[-1]
    assert isinstance(found, Response)
    assert found.timing.slack >= 0.0
    (at_token, kept) = found.plan.evictions[0]
    assert at_token == 16
    assert kept == found.plan.kept_at(16) < found.plan.kept_at(15) == 1000
    assert found.plan.alpha == pytest.approx(1.0 - found.plan.kept_tokens / 1000)
    assert found.plan.score is not None
    assert found.plan.score == pytest.approx(100.0 - 40.0 * found.plan.alpha / 0.95)


def test_a_single_plan_misses_there() -> None:
    """The same machine, and a plan that holds on the one that was profiled."""
    found = on_a_slow_machine(TimeBillPlanner(pessimism=1.0)).outcomes[-1]
    assert isinstance(found, Overrun)
    assert found.plan is not None
    assert found.plan.feasible
    assert found.plan.evictions == ()


def test_a_machine_as_profiled_evicts_nothing() -> None:
    made = scene(ExpectedPlanner())
    made.run()
    found = made.response("a")
    assert found.plan.evictions == ()
    assert found.timing.total == pytest.approx(0.113851, abs=1e-6)


def test_an_early_end_costs_nothing() -> None:
    made = scene(ExpectedPlanner())
    made.job("b", budget_ms=30, response_tokens=12, lengths=certain_length(12, 4), max_tokens=400)
    made.run()
    assert made.response("b").plan.evictions == ()


def test_an_eviction_that_is_put_off_spares_what_ends_before_it() -> None:
    either = np.zeros(25)
    either[[3, 24]] = 0.5  # up to 16 tokens, or up to 100, which take 114 ms without eviction
    made = Scene(
        time_model=READING,
        planner=ExpectedPlanner(hedges=True),
        predictor_time=Quadratic(0.0, 0.0, 1e-3),
        quality=QUALITY,
    )
    for name, release, tokens in (("short", 0, 12), ("long", 100, 100)):
        made.job(
            name,
            release_ms=release,
            budget_ms=90,
            response_tokens=tokens,
            lengths=LengthDistribution(either, 4),
            max_tokens=400,
        )
    made.run()
    short, long = made.response("short"), made.response("long")
    assert (short.plan.evictions, short.plan.alpha, short.plan.score) == ((), 0.0, 100.0)
    assert long.timing.slack >= 0.0
    assert long.plan.evictions[0].at_token == 16
    assert long.plan.alpha == pytest.approx(1.0 - long.plan.kept_tokens / 1000)
    assert long.plan.score == pytest.approx(100.0 - 40.0 * long.plan.alpha / 0.95)
