# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.budget.planners import FixedPlanner
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Observer, Partial, Periodically, Timeline, Timing
from timebill_ros.runtime.simulation import VirtualClock

from .simulated import SLOW_PREFILL, Scene


def watched(seen: list[Partial], *, period: float, **scene: object) -> Scene:
    """A scene whose job "a" is looked at every ``period`` s, and no other."""

    def observe(job: Job) -> Observer | None:
        return Periodically(seen.append, period, result.clock) if job.id == "a" else None

    result = Scene(observe=observe, **scene)  # type: ignore[arg-type]
    return result


def test_the_first_token_is_shown_at_once_and_then_one_look_a_period() -> None:
    seen: list[Partial] = []
    scene = watched(seen, period=0.01)
    scene.job("a", response_tokens=41)
    scene.job("unwatched", response_tokens=41)
    scene.run()
    # The first token is there after 10 ms of prefill; a step takes 1 ms.
    assert [partial.response_tokens for partial in seen] == [1, 11, 21, 31]
    assert [partial.text for partial in seen] == ["x" * n for n in (1, 11, 21, 31)]
    assert [partial.slack for partial in seen] == pytest.approx([0.99, 0.98, 0.97, 0.96])
    assert {partial.job.id for partial in seen} == {"a"}


def test_what_is_shown_carries_the_plan_s_ratio() -> None:
    seen: list[Partial] = []
    scene = watched(seen, period=1.0, planner=FixedPlanner(alpha=0.5))
    scene.job("a")
    scene.run()
    assert [partial.alpha for partial in seen] == [0.5]


def test_a_zero_period_shows_every_token_but_the_last() -> None:
    seen: list[Partial] = []
    scene = watched(seen, period=0.0)
    scene.job("a", response_tokens=6)
    scene.run()
    assert [partial.response_tokens for partial in seen] == [1, 2, 3, 4, 5]


def test_a_job_that_does_not_reach_decoding_shows_nothing() -> None:
    seen: list[Partial] = []
    scene = watched(seen, period=0.0, **SLOW_PREFILL)
    scene.job("a", budget_ms=5)
    assert scene.story() == [("a", "killed", 5.0)]
    assert seen == []


def test_an_observer_that_fails_sees_no_more_and_costs_the_job_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown: list[int] = []

    def show(partial: Partial) -> None:
        shown.append(partial.response_tokens)
        raise RuntimeError("the publisher is gone")

    scene = Scene(observe=lambda _: Periodically(show, 0.0, scene.clock))
    scene.job("a")
    assert scene.story() == [("a", "response", 20.0)]
    assert shown == [1]
    assert "could not be shown" in caplog.text


MS = 1_000_000


def test_stages_follow_each_other_and_add_up() -> None:
    clock = VirtualClock()
    job = Job("a", Conversation("", "stop"), 0, 100 * MS)
    clock.advance(5 * MS)
    timeline = Timeline(job, clock, clock)
    clock.advance(20 * MS)
    assert timeline.spent == 0.02
    assert timeline.since_plan == 0.0
    assert timeline.timing(0.0) == Timing(queued=0.005, prefill=0.02, total=0.025, slack=0.075)
    timeline.prefilled()
    clock.advance(1 * MS)
    timeline.planned()
    clock.advance(2 * MS)
    timeline.evicted()
    clock.advance(30 * MS)
    assert timeline.since_plan == 0.032
    timing = timeline.timing(0.004)
    assert timing == Timing(
        queued=0.005,
        predict=0.004,
        prefill=0.02,
        evict=0.002,
        decode=0.03,
        total=0.058,
        slack=0.042,
    )


def test_a_stage_under_way_counts_as_far_as_it_has_come() -> None:
    clock = VirtualClock()
    timeline = Timeline(Job("a", Conversation("", "stop"), 0, 10 * MS), clock, clock)
    timeline.prefilled()
    timeline.planned()
    clock.advance(7 * MS)
    assert timeline.timing(0.0).decode == 0.007


def test_a_stage_that_ended_at_instant_0_has_ended() -> None:
    clock = VirtualClock()
    timeline = Timeline(Job("a", Conversation("", "stop"), 0, 10 * MS), clock, clock)
    timeline.prefilled()
    clock.advance(7 * MS)
    assert timeline.timing(0.0).prefill == 0.0
