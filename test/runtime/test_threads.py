# SPDX-License-Identifier: Apache-2.0
"""The server on real threads: what virtual time cannot show. Waits are bounded, not timed."""

from __future__ import annotations

import threading

from timebill_ros.runtime.serving_threads import ServingThreads

from .simulated import Scene

PATIENCE = 20.0


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
