# SPDX-License-Identifier: Apache-2.0
"""Deadlines on a clock that does not run as fast as the work, stands still, or is set back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Reason, Stage
from timebill_ros.runtime.simulation import ScaledClock, VirtualClock, serve_all

from .simulated import MS, Scene

# Prefill 1 ms per 100 tokens; a step 1 ms over an empty cache, 1 ms more per 1,000 cached tokens.
GROWING = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-6, q=1e-3)


def at_rate(rate: float) -> Callable[[VirtualClock], ScaledClock]:
    return lambda real: ScaledClock(real, rate=rate)


def planned(rate: float, budget_ms: int) -> Scene:
    """One job of 1,000 prompt tokens and 51 response tokens, predicted 64 and planned for 64."""
    scene = Scene(
        GROWING,
        TimeBillPlanner(pessimism=1.0),
        predictor_time=Quadratic(0.0, 0.0, 0.0),
        deadline_clock_over=at_rate(rate),
    )
    scene.job("a", budget_ms=budget_ms, response_tokens=51, predicted_tokens=64)
    scene.run()
    return scene


@pytest.mark.parametrize("rate", [0.25, 0.5, 2.0, 4.0])
def test_a_clock_of_another_rate_gets_the_plan_of_the_same_real_time(rate: float) -> None:
    real = planned(1.0, 120).response("a")
    scaled = planned(rate, round(120 * rate)).response("a")
    assert 0.0 < real.plan.alpha < 0.95
    assert scaled.plan == real.plan
    assert scaled.plan.feasible
    # The engine's work in real seconds, the release and the deadline in the clock's.
    assert scaled.timing.decode == real.timing.decode
    assert scaled.timing.slack == pytest.approx(rate * real.timing.slack)
    assert scaled.timing.total == pytest.approx(rate * real.timing.total)


def test_a_fast_clock_is_planned_for_and_not_found_out_at_the_deadline() -> None:
    scene = planned(2.0, 120)
    # 10 ms prefill and 50 steps of 1 ms at least: 60 ms of real time are too few for the plan.
    assert not scene.overrun("a").plan.feasible
    assert scene.overrun("a").reason is Reason.KILLED
    assert scene.instants[0] / MS == pytest.approx(60.0, abs=2.0)


def test_waiting_for_a_prediction_takes_half_of_the_real_time_that_is_left() -> None:
    scene = Scene(
        predictor_time=Quadratic(0.0, 0.0, 10.0),
        predictor_grace=1.0,
        deadline_clock_over=at_rate(2.0),
    )
    scene.job("a", budget_ms=100)
    # 10 ms prefill, half of the 40 ms that are left, 10 ms decoding.
    assert scene.story() == [("a", "response", 40.0)]


class PausedClock:
    """Stands still at 1 s until the real clock shows ``resumes_ns``, then runs at its rate."""

    rate = 2.0

    def __init__(self, real: VirtualClock, resumes_ns: int) -> None:
        self._real = real
        self._resumes_ns = resumes_ns

    def now_ns(self) -> int:
        return NS_PER_S + 2 * max(0, self._real.now_ns() - self._resumes_ns)


def paused_scene(resumes_ms: int) -> Scene:
    return Scene(deadline_clock_over=lambda real: PausedClock(real, resumes_ms * MS))


def released_now(scene: Scene, name: str, budget_ms: int, response_tokens: int) -> Job:
    scene.job(name, response_tokens=response_tokens)
    return Job(name, Conversation("", name), NS_PER_S, NS_PER_S + budget_ms * MS)


def test_while_the_clock_stands_no_deadline_comes() -> None:
    scene = paused_scene(resumes_ms=10**6)
    for name in ("a", "b"):
        scene.server.submit(released_now(scene, name, 40, 101))
    serve_all(scene.server)
    assert [scene.response(name).timing.slack for name in "ab"] == [0.040, 0.040]
    assert scene.response("b").timing.decode == pytest.approx(0.100)
    assert scene.clock.now_ns() == 220 * MS


def test_plans_of_a_pause_count_on_the_rate_that_follows_it() -> None:
    scene = paused_scene(resumes_ms=10**6)
    scene.server.submit(released_now(scene, "a", 600, 11))
    serve_all(scene.server)
    # 400 steps of 1 ms do not fit 300 ms of real time.
    assert not scene.response("a").plan.feasible


def test_deadlines_are_noticed_when_the_clock_resumes() -> None:
    scene = paused_scene(resumes_ms=50)
    scene.server.submit(released_now(scene, "a", 40, 301))
    scene.server.submit(released_now(scene, "b", 40, 11))
    serve_all(scene.server)
    assert [(o.job.id, o.reason) for o in scene.outcomes] == [
        ("b", Reason.EXPIRED),
        ("a", Reason.KILLED),
    ]
    assert scene.instants == [70 * MS, 70 * MS]


class RewindableClock(ScaledClock):
    """Runs with the real clock from where it is set back to."""

    def set_back(self, by_ms: int) -> None:
        self._start_ns -= by_ms * MS


def rewindable() -> tuple[Scene, RewindableClock]:
    """A scene whose clocks show 1 s."""
    scene = Scene(deadline_clock_over=RewindableClock)
    scene.clock.advance(1000 * MS)
    clock = scene.deadline_clock
    assert isinstance(clock, RewindableClock)
    return scene, clock


def test_a_rewind_cancels_what_was_released_after_it() -> None:
    scene, clock = rewindable()
    running = scene.job("running", release_ms=1000, response_tokens=300)
    earlier = scene.job("earlier", release_ms=400, budget_ms=5000)
    later = scene.job("later", release_ms=900, budget_ms=5000)
    for job in (running, earlier, later):
        scene.server.submit(job)

    def set_back() -> None:
        clock.set_back(600)
        scene.server.rewind("clock: jumped back by 0.600 s")

    scene.clock.at(1100 * MS, set_back)
    scene.run_submitted()
    assert {o.job.id: getattr(o, "reason", None) for o in scene.outcomes} == {
        "later": Reason.CANCELED,
        "running": Reason.CANCELED,
        "earlier": None,
    }
    assert scene.overrun("later").stage is Stage.QUEUED
    assert scene.overrun("running").stage is Stage.DECODE
    assert scene.overrun("running").detail == "clock: jumped back by 0.600 s"


def test_the_names_of_what_a_rewind_cancels_are_free_again() -> None:
    scene, clock = rewindable()
    for release_ms in (1000, 500):
        scene.server.submit(scene.job("again", release_ms=release_ms))
        if release_ms == 1000:
            clock.set_back(500)
            scene.server.rewind("clock: jumped back by 0.500 s")
    scene.run_submitted()
    assert scene.overrun("again").reason is Reason.CANCELED
    assert scene.response("again").timing.slack > 0.0


def test_what_a_rewind_leaves_in_flight_keeps_its_name() -> None:
    scene, clock = rewindable()
    scene.server.submit(scene.job("again", release_ms=400, budget_ms=5000))
    clock.set_back(500)
    scene.server.rewind("clock: jumped back by 0.500 s")
    scene.server.submit(scene.job("again", release_ms=400, budget_ms=5000))
    scene.run_submitted()
    assert scene.overrun("again").reason is Reason.REJECTED
    assert scene.overrun("again").detail == "id: 'again' is already in flight"
    assert scene.response("again").timing.slack > 0.0
