# SPDX-License-Identifier: Apache-2.0
"""The window of past requests' times, alone and behind a server in virtual time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from timebill_ros.budget.pace import lateness
from timebill_ros.budget.planners import FixedPlanner, TimeBillPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.outcome import Reason, Response
from timebill_ros.runtime.pace_tracker import WINDOW, PaceTracker, Slowdown
from timebill_ros.runtime.simulation import ScaledClock

from .at_once import run_at_once
from .simulated import FLAT, Scene

# A step takes 1 ms and 1 us per cached token.
MODEL = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-6, q=1e-3)
SLOW = replace(MODEL, p=1.5 * MODEL.p, q=1.5 * MODEL.q)


def test_the_profile_holds_until_requests_show_otherwise() -> None:
    tracker = PaceTracker()
    assert tracker.pace(0.05).margin == 0.0
    tracker.observe(2.0, 1.0)
    assert tracker.pace(0.05).margin == 0.0, "one slow request is not the machine"
    tracker.observe(1.5, 1.0)
    assert tracker.pace(0.05).margin == pytest.approx(lateness(1.5, 1.0))


def test_a_lasting_change_is_known_within_a_window() -> None:
    tracker = PaceTracker()
    for _ in range(WINDOW):
        tracker.observe(1.5, 1.0)
    assert tracker.pace(0.5).margin == pytest.approx(lateness(1.5, 1.0))
    for _ in range(WINDOW):
        tracker.observe(1.0, 1.0)
    assert tracker.pace(0.01).margin == 0.0


def test_no_work_says_nothing() -> None:
    tracker = PaceTracker()
    for _ in range(WINDOW):
        tracker.observe(1.0, 0.0)
    assert tracker.pace(0.01).margin == 0.0


def test_many_threads_may_observe_and_ask() -> None:
    tracker = PaceTracker()

    def work() -> None:
        for n in range(200):
            tracker.observe(1.0 + n / 100, 1.0)
            assert tracker.pace(0.05).margin >= 0.0

    run_at_once(work)


def slow_scene(time_risk: float) -> Scene:
    """Thirty requests that keep everything only where the machine is as fast as profiled."""
    scene = Scene(
        time_model=MODEL,
        real_times=SLOW,
        planner=TimeBillPlanner(pessimism=1.0),
        time_risk=time_risk,
        default_max_tokens=51,
    )
    for n in range(30):
        scene.job(f"{n:02}", release_ms=1000 * n, budget_ms=130, response_tokens=51)
    scene.run()
    return scene


def test_a_machine_slower_than_its_profile_misses_until_plans_know() -> None:
    # 10 ms of prefill, then 50 steps of 2 ms and more: 111 ms as profiled, 162 ms in truth.
    blind = slow_scene(0.0)
    assert [outcome.job.id for outcome in blind.outcomes if not outcome.plan.alpha] == [
        f"{n:02}" for n in range(30)
    ]
    assert all(blind.overrun(f"{n:02}").reason is Reason.KILLED for n in range(30))

    aware = slow_scene(0.05)
    assert [aware.overrun(f"{n:02}").reason for n in range(2)] == [Reason.KILLED] * 2
    for n in range(2, 30):
        plan = aware.response(f"{n:02}").plan
        assert plan.alpha > 0.0
        assert plan.feasible
        assert plan.time_margin == pytest.approx(0.5, abs=0.05)
        assert aware.response(f"{n:02}").timing.execution <= plan.wcet


class RecordingTracker(PaceTracker):
    """Keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, float]] = []

    def observe(self, measured: float, profiled: float) -> None:
        self.told.append((measured, profiled))
        super().observe(measured, profiled)


def told(
    response_tokens: int, budget_ms: int = 1000, rate: float = 1.0
) -> list[tuple[float, float]]:
    """What one request of 1,000 tokens, half of them evicted in 10 ms, says of 20 ms in truth."""
    tracker = RecordingTracker()
    scene = Scene(
        time_model=replace(FLAT, evict_base=0.01),
        real_times=replace(FLAT, evict_base=0.02),
        planner=FixedPlanner(alpha=0.5),
        pace=tracker,
        deadline_clock_over=partial(ScaledClock, rate=rate),
    )
    scene.job("a", response_tokens=response_tokens, budget_ms=budget_ms)
    scene.run()
    return tracker.told


def test_eviction_and_decoding_are_compared_for_the_tokens_that_came() -> None:
    assert told(11) == [pytest.approx((0.030, 0.020))]


@pytest.mark.parametrize("rate", [0.5, 4.0])
def test_times_are_real_ones_whatever_the_rate_of_the_deadlines_clock(rate: float) -> None:
    assert told(11, rate=rate) == [pytest.approx((0.030, 0.020))]


def test_a_killed_request_says_what_it_took_so_far() -> None:
    # 10 ms of prefill and 20 ms of eviction leave 5 ms: five steps.
    assert told(11, budget_ms=35) == [pytest.approx((0.025, 0.015))]


def test_an_answer_within_prefill_says_nothing() -> None:
    assert told(1) == []


# Three times as slow in prefill, and twice in decoding, as the machine is since.
BUSY = replace(FLAT, b=3 * FLAT.b, q=2 * FLAT.q)


def test_nothing_is_corrected_before_a_request() -> None:
    assert Slowdown().corrected(FLAT) == FLAT


@pytest.mark.parametrize(("believed", "real"), [(BUSY, FLAT), (FLAT, BUSY)])
def test_requests_correct_the_time_model_both_ways(believed: TimeModel, real: TimeModel) -> None:
    slowdown = Slowdown()
    scene = Scene(time_model=believed, real_times=real, slowdown=slowdown)
    for n in range(30):
        scene.job(f"job {n}", release_ms=n * 1000)
    outcomes = scene.run()
    model = slowdown.corrected(believed)
    assert model.prefill(1000) == pytest.approx(real.prefill(1000), rel=0.02)
    assert model.step(1000) == pytest.approx(real.step(1000), rel=0.02)
    # What is predicted to a client is corrected too.
    assert isinstance(outcomes[-1], Response)
    assert outcomes[-1].predicted_prefill == pytest.approx(real.prefill(1000), rel=0.02)


def test_one_disturbed_request_moves_little_and_is_forgotten() -> None:
    slowdown = Slowdown()
    slowdown.observe_decoding(3.0, 1.0)
    disturbed = slowdown.corrected(FLAT).step(0) / FLAT.step(0)
    assert 1.0 < disturbed < 1.3
    for _ in range(30):
        slowdown.observe_decoding(1.0, slowdown.corrected(FLAT).step(0) / FLAT.step(0))
    assert slowdown.corrected(FLAT).step(0) == pytest.approx(FLAT.step(0), rel=0.01)


@pytest.mark.parametrize(("measured", "expected"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_no_work_corrects_nothing(measured: float, expected: float) -> None:
    slowdown = Slowdown()
    slowdown.observe_prefill(measured, expected)
    slowdown.observe_decoding(measured, expected)
    assert slowdown.corrected(FLAT) == FLAT


def test_no_measurement_moves_it_without_bound() -> None:
    slowdown = Slowdown()
    for _ in range(100):
        slowdown.observe_prefill(1e6, 1e-6)
        slowdown.observe_decoding(1e-6, 1e6)
    model = slowdown.corrected(FLAT)
    assert model.prefill(1000) == pytest.approx(20.0 * FLAT.prefill(1000))
    assert model.step(0) == pytest.approx(FLAT.step(0) / 20.0)
