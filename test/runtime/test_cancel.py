# SPDX-License-Identifier: Apache-2.0
"""Withdrawing single jobs: at any moment, and never at the price of the one outcome."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest

from timebill_ros.engine.request import PreparedRequest
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.serving_threads import ServingThreads

from .simulated import MS, Scene

PATIENCE = 120.0


def cancel_at(scene: Scene, job: Job, instant_ms: float) -> list[bool]:
    """Have the job canceled then; what the server said of it, once it was."""
    said: list[bool] = []
    scene.clock.at(
        round(instant_ms * MS), lambda: said.append(scene.server.cancel(job, "withdrawn"))
    )
    return said


def terminal(outcomes: list[Outcome]) -> Counter[int]:
    """How many terminal outcomes each job had, by its identity."""
    return Counter(id(o.job) for o in outcomes if isinstance(o, Response) or o.terminal)


def test_a_queued_job_is_gone_at_once_and_the_others_keep_their_order() -> None:
    scene = Scene()
    scene.job("runs")
    waiting = [scene.job(f"w{i}", release_ms=1, budget_ms=1000 + i) for i in range(4)]
    said = cancel_at(scene, waiting[1], 5)
    story = scene.story()
    assert story[:2] == [("w1", "canceled", 5.0), ("runs", "response", 20.0)]
    assert [id for id, _, _ in story[2:]] == ["w0", "w2", "w3"]
    assert said == [True]
    canceled = scene.overrun("w1")
    assert (canceled.stage, canceled.detail) == (Stage.QUEUED, "withdrawn")


def test_decoding_stops_within_one_step_with_the_partial_text() -> None:
    scene = Scene()
    said = cancel_at(scene, scene.job("a", response_tokens=50), 14.5)
    assert scene.story() == [("a", "canceled", 15.0)]
    assert said == [True]
    assert scene.overrun("a").stage is Stage.DECODE
    assert scene.overrun("a").partial_text == "x" * 6


def test_prefill_stops_within_one_chunk() -> None:
    scene = Scene(chunk=100)
    cancel_at(scene, scene.job("a", prompt_tokens=1000), 3.5)
    assert scene.story() == [("a", "canceled", 4.0)]
    assert scene.overrun("a").stage is Stage.PREFILL


def test_one_that_is_being_prepared_is_gone_at_once() -> None:
    scene = Scene()
    job = scene.job("a")
    prepare = scene.engine.prepare

    def prepare_after_cancel(*asked: Any) -> PreparedRequest:
        assert scene.server.queue_depth == 1
        assert scene.server.cancel(job, "withdrawn")
        return prepare(*asked)

    scene.engine.prepare = prepare_after_cancel  # type: ignore[method-assign]
    assert scene.story() == [("a", "canceled", 0.0)]
    assert scene.overrun("a").stage is Stage.QUEUED


def test_one_that_was_taken_from_the_queue_but_has_not_begun_is_stopped_there() -> None:
    def observe(job: Job) -> None:
        assert scene.server.queue_depth == 0
        assert scene.server.cancel(job, "withdrawn")

    scene = Scene(observe=observe)
    scene.job("a")
    assert scene.story() == [("a", "canceled", 0.0)]
    assert scene.overrun("a").stage is Stage.QUEUED


def test_the_last_step_outruns_a_cancel_that_comes_during_it() -> None:
    scene = Scene()
    said = cancel_at(scene, scene.job("a", response_tokens=11), 19.5)
    assert scene.story() == [("a", "response", 20.0)]
    assert said == [True]


def test_one_that_has_ended_is_not_canceled() -> None:
    said: list[bool] = []
    scene = Scene(hear=lambda o: said.append(scene.server.cancel(o.job, "withdrawn")))
    job = scene.job("a")
    later = cancel_at(scene, job, 50)
    assert [what for _, what, _ in scene.story()] == ["response"]
    assert said == later == [False]


def test_a_later_job_under_the_same_id_is_another_one() -> None:
    scene = Scene()
    first = scene.job("a")
    scene.job("a", release_ms=30)
    said = cancel_at(scene, first, 35)
    assert [what for _, what, _ in scene.story()] == ["response", "response"]
    assert said == [False]


def test_the_id_of_a_canceled_job_is_free_at_once() -> None:
    scene = Scene()
    scene.job("runs")
    cancel_at(scene, scene.job("a", release_ms=1), 5)
    scene.job("a", release_ms=6)
    assert [(id, what) for id, what, _ in scene.story()] == [
        ("a", "canceled"),
        ("runs", "response"),
        ("a", "response"),
    ]


def test_a_job_that_runs_late_can_still_be_canceled() -> None:
    scene = Scene(policy=OverrunPolicy.SKIP_NEXT)
    cancel_at(scene, scene.job("a", budget_ms=15, response_tokens=50), 17.5)
    assert scene.story() == [("a", "late", 15.0), ("a", "canceled", 18.0)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("policy", [OverrunPolicy.KILL, OverrunPolicy.SKIP_NEXT])
def test_canceling_at_random_leaves_each_job_one_outcome(policy: OverrunPolicy, seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(policy=policy, queue_capacity=5)
    said: dict[int, list[bool]] = {}
    for number in range(200):
        release_ms = rng.randrange(4000)
        job = scene.job(
            f"j{number}",
            release_ms=release_ms,
            budget_ms=rng.choice([8, 20, 80, 400]),
            prompt_tokens=rng.choice([50, 1000, 3000]),
            response_tokens=rng.randrange(1, 60),
        )
        said[id(job)] = cancel_at(scene, job, release_ms + 1 + 50 * rng.random())
    outcomes = scene.run()
    assert terminal(outcomes) == Counter(id(job) for job in scene.jobs)
    canceled = {
        id(o.job) for o in outcomes if isinstance(o, Overrun) and o.reason is Reason.CANCELED
    }
    assert 10 < len(canceled) < 190
    assert canceled <= {job for job, answers in said.items() if answers == [True]}


def test_canceling_from_another_thread_leaves_each_job_one_outcome() -> None:
    scene = Scene(queue_capacity=1000)
    thread = ServingThreads()
    thread.serve(scene.server)
    jobs = [scene.job(f"j{i}", budget_ms=10**9, response_tokens=100) for i in range(300)]
    submitted = threading.Semaphore(0)

    def cancel_all_but_every_third() -> None:
        for number, job in enumerate(jobs):
            assert submitted.acquire(timeout=PATIENCE)
            if number % 3:
                scene.server.cancel(job, "withdrawn")

    canceller = threading.Thread(target=cancel_all_but_every_third)
    canceller.start()
    for job in jobs:
        scene.server.submit(job)
        submitted.release()
    canceller.join(PATIENCE)
    assert scene.server.wait_until_idle(PATIENCE)
    assert thread.stop(PATIENCE)
    assert terminal(scene.outcomes) == Counter(id(job) for job in jobs)
    answered = {o.job.id for o in scene.outcomes if isinstance(o, Response)}
    assert {job.id for job in jobs[::3]} <= answered
