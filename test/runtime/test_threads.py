# SPDX-License-Identifier: Apache-2.0
"""The server on real threads: what virtual time cannot show. Waits are bounded, not timed."""

from __future__ import annotations

import threading
from dataclasses import replace

from timebill_ros.engine.request import Conversation, PreparedRequest, SamplingOverride
from timebill_ros.runtime.clock import MonotonicClock
from timebill_ros.runtime.outcome import Outcome, Reason
from timebill_ros.runtime.serving_threads import ServingThreads

from .simulated import MS, Scene

PATIENCE = 120.0


def test_the_engine_s_thread_loads_and_serves_what_other_threads_submit() -> None:
    served_on: set[str] = set()
    scene = Scene(
        queue_capacity=1000, hear=lambda _: served_on.add(threading.current_thread().name)
    )
    thread = ServingThreads()
    loaded_on = thread.start(lambda: threading.current_thread().name).result(PATIENCE)
    jobs = [scene.job(f"j{i}", budget_ms=10**9) for i in range(200)]
    thread.serve(scene.server)
    senders = [
        threading.Thread(target=lambda part=part: [scene.server.submit(j) for j in part])
        for part in (jobs[::2], jobs[1::2])
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(PATIENCE)
    assert scene.server.wait_until_idle(PATIENCE)
    assert thread.stop(PATIENCE)
    assert served_on == {loaded_on}
    assert sorted(o.job.id for o in scene.outcomes) == sorted(j.id for j in jobs)


def test_closing_while_jobs_run_leaves_none_without_an_outcome() -> None:
    scene = Scene(queue_capacity=1000)
    thread = ServingThreads()
    thread.serve(scene.server)
    jobs = [scene.job(f"j{i}", budget_ms=10**9, response_tokens=300) for i in range(100)]
    for job in jobs[:60]:
        scene.server.submit(job)
    scene.server.close("closed")
    for job in jobs[60:]:
        scene.server.submit(job)
    assert scene.server.wait_until_idle(PATIENCE)
    assert thread.stop(PATIENCE)
    assert sorted(o.job.id for o in scene.outcomes) == sorted(j.id for j in jobs)


def test_a_schema_that_takes_long_to_prepare_delays_no_other_job() -> None:
    """The schema is compiled until the test allows it to end, long after the others."""
    go, ended = threading.Event(), threading.Event()

    def hear(outcome: Outcome) -> None:
        if outcome.job.id == "behind":
            ended.set()

    scene = Scene(queue_capacity=10, hear=hear)
    prepare = scene.engine.prepare

    def prepare_slowly(
        conversation: Conversation, schema: str, sampling: SamplingOverride
    ) -> PreparedRequest:
        assert not schema or go.wait(PATIENCE)
        return prepare(conversation, schema, sampling)

    scene.engine.prepare = prepare_slowly  # type: ignore[method-assign]
    threads = ServingThreads()
    threads.serve(scene.server)
    scene.server.submit(scene.job("slow", budget_ms=10**9, response_schema="{}"))
    scene.server.submit(scene.job("slow too", budget_ms=10**9, response_schema="{}"))
    scene.server.submit(scene.job("behind", budget_ms=2 * 10**9))
    assert ended.wait(PATIENCE)
    assert [o.job.id for o in scene.outcomes] == ["behind"]
    go.set()
    assert scene.server.wait_until_idle(PATIENCE)
    assert threads.stop(PATIENCE)
    assert sorted(o.job.id for o in scene.outcomes) == ["behind", "slow", "slow too"]


def test_what_expires_while_it_is_prepared_is_told_at_its_deadline() -> None:
    """Its preparation ends only after its outcome."""
    told = threading.Event()
    scene = Scene(hear=lambda _: told.set(), deadline_clock_over=lambda _: MonotonicClock())
    prepare = scene.engine.prepare

    def prepare_slowly(
        conversation: Conversation, schema: str, sampling: SamplingOverride
    ) -> PreparedRequest:
        assert told.wait(PATIENCE)
        return prepare(conversation, schema, sampling)

    scene.engine.prepare = prepare_slowly  # type: ignore[method-assign]
    threads = ServingThreads()
    threads.serve(scene.server)
    now_ns = MonotonicClock().now_ns()
    job = replace(scene.job("a"), release_ns=now_ns, deadline_ns=now_ns + 50 * MS)
    scene.server.submit(job)
    assert told.wait(PATIENCE)
    assert scene.server.wait_until_idle(PATIENCE)
    assert threads.stop(PATIENCE)
    assert scene.overrun("a").reason is Reason.EXPIRED
