# SPDX-License-Identifier: Apache-2.0
"""Policies and the queue in virtual time, exact to the nanosecond.

A job of 1,000 prompt tokens takes 10 ms to prefill (ten chunks of 1 ms); a response of N tokens
takes N - 1 ms to decode.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from timebill_ros.budget.planners import FixedPlanner
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage
from timebill_ros.runtime.policy import Decisions, OverrunPolicy

from .simulated import MS, SLOW_PREFILL, Scene


def test_an_idle_server_answers_when_the_work_is_done() -> None:
    scene = Scene()
    scene.job("a", release_ms=5, response_tokens=11, budget_ms=20)
    assert scene.story() == [("a", "response", 25.0)]
    timing = scene.response("a").timing
    assert (timing.queued, timing.prefill, timing.decode) == (0.0, 0.010, 0.010)
    assert (timing.total, timing.slack) == (0.020, 0.0)


def test_jobs_run_earliest_deadline_first_without_preemption() -> None:
    scene = Scene()
    scene.job("first", release_ms=0, budget_ms=500)
    scene.job("relaxed", release_ms=1, budget_ms=400)
    scene.job("urgent", release_ms=2, budget_ms=100)
    assert [s[0] for s in scene.story()] == ["first", "urgent", "relaxed"]
    assert scene.response("relaxed").timing.queued == pytest.approx(0.039)


def test_equal_deadlines_keep_their_order_of_arrival() -> None:
    scene = Scene()
    for name in "abcd":
        scene.job(name, budget_ms=500)
    assert [s[0] for s in scene.story()] == list("abcd")


def test_kill_stops_decoding_within_one_step_of_the_deadline() -> None:
    scene = Scene()
    scene.job("a", budget_ms=15, response_tokens=100)
    scene.job("b", release_ms=1, budget_ms=100)
    assert scene.story() == [("a", "killed", 15.0), ("b", "response", 35.0)]
    killed = scene.overrun("a")
    assert killed.stage is Stage.DECODE
    assert (killed.response_tokens, killed.partial_text) == (6, "xxxxxx")
    assert killed.plan is not None


def test_kill_stops_prefill_within_one_chunk_of_the_deadline() -> None:
    scene = Scene(chunk=400, **SLOW_PREFILL)
    scene.job("a", budget_ms=5)
    assert scene.story() == [("a", "killed", 8.0)]
    killed = scene.overrun("a")
    assert (killed.stage, killed.plan, killed.response_tokens) == (Stage.PREFILL, None, 0)
    assert killed.timing.slack == pytest.approx(-0.003)
    assert killed.timing.prefill == pytest.approx(0.008)
    assert killed.predicted_prefill == pytest.approx(0.0001)


def test_a_deadline_within_the_last_chunk_is_missed_in_prefill() -> None:
    scene = Scene(chunk=400, **SLOW_PREFILL)
    scene.job("a", budget_ms=9)
    assert scene.story() == [("a", "killed", 10.0)]
    killed = scene.overrun("a")
    assert (killed.stage, killed.partial_text) == (Stage.PREFILL, "")
    assert (killed.timing.evict, killed.timing.decode) == (0.0, 0.0)


def test_a_response_that_ends_exactly_at_the_deadline_is_in_time() -> None:
    scene = Scene()
    scene.job("a", budget_ms=20, response_tokens=11)
    assert scene.story() == [("a", "response", 20.0)]
    assert not scene.response("a").late


@pytest.mark.parametrize(("policy", "what"), [("kill", "killed"), ("skip_next", "late")])
def test_a_last_step_that_ends_past_the_deadline_is_a_miss(policy: str, what: str) -> None:
    scene = Scene(policy=OverrunPolicy(policy))
    job = scene.job("a", response_tokens=11)
    scene.jobs[0] = type(job)(job.id, job.conversation, 0, 20 * MS - 1)
    assert scene.story()[0] == ("a", what, 20.0)


def test_skip_next_lets_the_late_job_end_and_skips_what_is_behind_it() -> None:
    scene = Scene(policy=OverrunPolicy.SKIP_NEXT)
    scene.job("late", budget_ms=15, response_tokens=31)
    scene.job("queued", release_ms=3, budget_ms=500)
    scene.job("arrives", release_ms=30, budget_ms=500)
    scene.job("after", release_ms=41, budget_ms=500)
    assert scene.story() == [
        ("late", "late", 15.0),
        ("queued", "skipped", 15.0),
        ("arrives", "skipped", 30.0),
        ("late", "response", 40.0),
        ("after", "response", 61.0),
    ]
    assert scene.response("late").late
    assert not scene.overrun("late").terminal
    assert scene.overrun("late").stage is Stage.DECODE


def test_skip_next_in_prefill_marks_the_moment_of_the_miss() -> None:
    scene = Scene(policy=OverrunPolicy.SKIP_NEXT)
    scene.job("late", budget_ms=4)
    assert scene.story() == [("late", "late", 4.0), ("late", "response", 20.0)]
    assert scene.overrun("late").stage is Stage.PREFILL


@pytest.mark.parametrize("policy", list(OverrunPolicy))
def test_what_is_expired_on_arrival_is_never_run(policy: OverrunPolicy) -> None:
    scene = Scene(policy=policy)
    scene.job("zero", release_ms=2, budget_ms=0)
    scene.job("past", release_ms=2, budget_ms=-500)
    assert scene.story() == [("zero", "expired", 2.0), ("past", "expired", 2.0)]
    assert "0.500 s before arrival" in scene.overrun("past").detail


@pytest.mark.parametrize("policy", list(OverrunPolicy))
def test_a_deadline_that_passes_in_the_queue_is_announced_without_running(
    policy: OverrunPolicy,
) -> None:
    scene = Scene(policy=policy)
    scene.job("running", budget_ms=500, response_tokens=51)
    scene.job("waits", release_ms=1, budget_ms=30)
    assert scene.story() == [("waits", "expired", 31.0), ("running", "response", 60.0)]
    assert scene.overrun("waits").stage is Stage.QUEUED
    assert scene.overrun("waits").timing.queued == pytest.approx(0.030)


def test_cancel_all_ends_the_running_job_at_its_next_step_with_its_text() -> None:
    scene = Scene()
    scene.job("runs", response_tokens=50)
    scene.job("waits", release_ms=1)
    scene.clock.at(14 * MS, lambda: scene.server.cancel_all("deactivated"))
    assert scene.story() == [("waits", "canceled", 14.0), ("runs", "canceled", 14.0)]
    canceled = scene.outcomes[1]
    assert isinstance(canceled, Overrun)
    assert (canceled.detail, canceled.partial_text) == ("deactivated", "x" * 5)


def test_a_closed_server_rejects_and_an_opened_one_serves_again() -> None:
    scene = Scene()
    scene.job("before", release_ms=0)
    scene.clock.at(5 * MS, lambda: scene.server.close("the node is inactive"))
    scene.job("inactive", release_ms=10)
    scene.clock.at(50 * MS, scene.server.open)
    scene.job("again", release_ms=60)
    assert scene.story() == [
        ("before", "canceled", 5.0),
        ("inactive", "rejected", 10.0),
        ("again", "response", 80.0),
    ]
    assert scene.outcomes[1].detail == "the node is inactive"  # type: ignore[union-attr]


def test_another_decision_counts_from_the_next_job_on() -> None:
    scene = Scene(policy=OverrunPolicy.KILL)
    scene.job("a", response_tokens=11)
    scene.job("b", release_ms=1, response_tokens=11)
    other = Decisions(FixedPlanner(alpha=0.5), OverrunPolicy.KILL)
    scene.clock.at(5 * MS, lambda: scene.server.decide(other))
    scene.run()
    assert [scene.response(id).plan.planner for id in "ab"] == ["vanilla", "fixed"]


def test_a_failure_ends_the_job_and_not_the_server() -> None:
    scene = Scene()
    scene.job("breaks")
    scene.job("fine", release_ms=1)
    step = scene.engine.step

    def break_once() -> None:
        scene.engine.step = step  # type: ignore[method-assign]
        raise MemoryError("no room for the cache")

    scene.engine.step = break_once  # type: ignore[method-assign]
    assert [s[:2] for s in scene.story()] == [("breaks", "failed"), ("fine", "response")]
    assert scene.overrun("breaks").detail == "MemoryError: no room for the cache"


def test_even_an_engine_that_cannot_tell_its_text_gets_one_outcome() -> None:
    scene = Scene()
    scene.job("breaks")

    def broken() -> str:
        raise RuntimeError("gone")

    scene.engine.step = broken  # type: ignore[assignment, method-assign]
    scene.engine.text = broken  # type: ignore[method-assign]
    assert [s[:2] for s in scene.story()] == [("breaks", "failed")]


def test_kill_needs_no_partial_text() -> None:
    scene = Scene()
    scene.job("a", budget_ms=15, response_tokens=100)
    scene.job("b", release_ms=20)

    def broken() -> str:
        raise RuntimeError("gone")

    text, scene.engine.text = scene.engine.text, broken  # type: ignore[method-assign]
    scene.clock.at(18 * MS, lambda: setattr(scene.engine, "text", text))
    assert scene.story() == [("a", "killed", 15.0), ("b", "response", 40.0)]


def test_an_outcome_that_cannot_be_told_costs_no_other_its_own() -> None:
    def fail_if_late(outcome: Outcome) -> None:
        if isinstance(outcome, Overrun) and outcome.reason is Reason.LATE:
            raise RuntimeError("the publisher is gone")

    scene = Scene(policy=OverrunPolicy.SKIP_NEXT, hear=fail_if_late)
    scene.job("late", budget_ms=15, response_tokens=31)
    scene.job("queued", release_ms=3)
    scene.job("after", release_ms=50)
    assert [s[:2] for s in scene.story()] == [
        ("queued", "skipped"),
        ("late", "response"),
        ("after", "response"),
    ]


def test_an_abandoned_job_is_announced_at_once_and_its_outcome_is_void() -> None:
    scene = Scene()
    scene.job("stuck", response_tokens=50)
    scene.job("next", release_ms=100)
    scene.clock.at(14 * MS, lambda: scene.server.abandon("the engine did not stop"))
    assert scene.story() == [("stuck", "canceled", 14.0), ("next", "response", 120.0)]
    assert scene.overrun("stuck").stage is Stage.DECODE


def test_a_job_keeps_the_policy_that_it_started_with() -> None:
    scene = Scene(policy=OverrunPolicy.SKIP_NEXT)
    scene.job("late", budget_ms=15, response_tokens=31)
    kill = Decisions(FixedPlanner(alpha=0.0), OverrunPolicy.KILL)
    scene.clock.at(20 * MS, lambda: scene.server.decide(kill))
    assert scene.story() == [("late", "late", 15.0), ("late", "response", 40.0)]


def terminal(outcomes: list[Outcome]) -> Counter[int]:
    """How many terminal outcomes each job had, by its identity (ids repeat on purpose)."""
    return Counter(id(o.job) for o in outcomes if isinstance(o, Response) or o.terminal)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("policy", list(OverrunPolicy))
def test_every_job_has_exactly_one_terminal_outcome(policy: OverrunPolicy, seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(policy=policy, queue_capacity=5)
    for _ in range(300):
        scene.job(
            f"j{rng.randrange(200)}",
            release_ms=rng.randrange(6000),
            budget_ms=rng.choice([-5, 0, 8, 20, 40, 80, 400]),
            prompt_tokens=rng.choice([1, 50, 1000, 3000, 20000]),
            response_tokens=rng.randrange(1, 60),
            max_tokens=rng.choice([None, 1, 10, 20000]),
        )
    for _ in range(3):
        scene.clock.at(rng.randrange(6000) * MS, lambda: scene.server.cancel_all("canceled"))
    # The last submission under an id says what the simulated engine makes of it; that is fine.
    outcomes = scene.run()
    assert terminal(outcomes) == Counter(id(job) for job in scene.jobs)
    reasons = {o.reason for o in outcomes if isinstance(o, Overrun)}
    assert {Reason.EXPIRED, Reason.REJECTED} <= reasons
    for outcome in outcomes:
        if isinstance(outcome, Response) and not outcome.late:
            assert outcome.timing.slack >= 0.0
