# SPDX-License-Identifier: Apache-2.0
"""The server on real threads: what virtual time cannot show. Waits are bounded, not timed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.runtime.prediction import ThreadedPredictor
from timebill_ros.runtime.worker import EngineThread

from .simulated import Scene

PATIENCE = 20.0


class StubPredictor:
    """Answers when it is let go, on whatever thread it is called."""

    bucket_size = 16

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: list[str] = []
        self.inputs: list[tuple[str, int, int | None]] = []

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        self.threads.append(threading.current_thread().name)
        self.inputs.append((text, len(prompt_ids), max_input))
        assert self.go.wait(PATIENCE)
        if text == "breaks":
            raise ValueError("NaN")
        return LengthDistribution(np.array([0.0, 1.0]), 16)


@pytest.fixture
def stub() -> StubPredictor:
    return StubPredictor()


def test_predictions_run_on_one_thread_of_their_own(stub: StubPredictor) -> None:
    service = ThreadedPredictor(stub)
    stub.go.set()
    lengths = [service.start("x", [1, 2, 3], 2).wait(PATIENCE) for _ in range(3)]
    service.close()
    assert [d.predicted_tokens(400) for d in lengths if d is not None] == [32] * 3
    assert len(set(stub.threads)) == 1
    assert threading.current_thread().name not in stub.threads
    assert stub.inputs[0] == ("x", 3, 2)


def test_what_is_not_there_in_time_is_none_and_the_next_one_still_works(
    stub: StubPredictor,
) -> None:
    service = ThreadedPredictor(stub)
    slow = service.start("slow", [1], 1)
    behind = service.start("behind", [1], 1)
    assert slow.wait(0.0) is None
    assert behind.wait(0.0) is None
    assert behind.elapsed == 0.0
    behind.cancel()
    stub.go.set()
    assert service.start("next", [1], 1).wait(PATIENCE) is not None
    service.close()
    # The one that never started was withdrawn.
    assert [text for text, _, _ in stub.inputs] == ["slow", "next"]


def test_a_predictor_s_exception_reaches_who_waits(stub: StubPredictor) -> None:
    service = ThreadedPredictor(stub)
    stub.go.set()
    with pytest.raises(ValueError, match="NaN"):
        service.start("breaks", [1], 1).wait(PATIENCE)
    service.close()


def test_the_engine_s_thread_loads_and_serves_what_other_threads_submit() -> None:
    scene = Scene(queue_capacity=1000)
    served_on: set[str] = set()
    emit = scene.server._emit
    scene.server._emit = lambda o: (served_on.add(threading.current_thread().name), emit(o))
    thread = EngineThread()
    loaded_on = thread.call(lambda: threading.current_thread().name)
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


def test_an_exception_while_loading_reaches_the_caller_and_the_thread_still_ends() -> None:
    thread = EngineThread()

    def load() -> None:
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        thread.call(load)
    assert thread.stop(PATIENCE)


def test_closing_while_jobs_run_leaves_none_without_an_outcome() -> None:
    scene = Scene(queue_capacity=1000)
    thread = EngineThread()
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
