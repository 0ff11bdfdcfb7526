# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from timebill_ros.engine.conversation import Conversation
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Timing
from timebill_ros.runtime.simulation import VirtualClock
from timebill_ros.runtime.timeline import Timeline

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
