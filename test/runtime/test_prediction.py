# SPDX-License-Identifier: Apache-2.0
"""Predictions on their thread: what virtual time cannot show. Waits are bounded, not timed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.runtime.prediction import ThreadedPredictor
from timebill_ros.runtime.simulation import VirtualClock

PATIENCE = 120.0
MS = 1_000_000


class StubPredictor:
    """Answers when it is let go, on whatever thread it is called."""

    bucket_size = 16

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: list[str] = []
        self.inputs: list[tuple[str, int, int | None]] = []
        self.begun = threading.Event()

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        self.threads.append(threading.current_thread().name)
        self.inputs.append((text, len(prompt_ids), max_input))
        self.begun.set()
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


def test_the_time_worked_is_told_from_the_start_to_the_end_even_of_what_breaks(
    stub: StubPredictor,
) -> None:
    clock = VirtualClock()
    service = ThreadedPredictor(stub, clock)
    pending = service.start("breaks", [1], 1)
    assert stub.begun.wait(PATIENCE)
    clock.advance(30 * MS)
    assert pending.elapsed == 0.030
    clock.advance(10 * MS)
    stub.go.set()
    with pytest.raises(ValueError, match="NaN"):
        pending.wait(PATIENCE)
    clock.advance(50 * MS)
    assert pending.elapsed == 0.040
    service.close()


def test_cancelling_leaves_one_under_way_alone(stub: StubPredictor) -> None:
    service = ThreadedPredictor(stub)
    pending = service.start("x", [1], 1)
    assert stub.begun.wait(PATIENCE)
    pending.cancel()
    stub.go.set()
    assert pending.wait(PATIENCE) is not None
    service.close()


def test_closing_waits_for_the_one_under_way_and_lets_go_of_the_model() -> None:
    stub = StubPredictor()
    service = ThreadedPredictor(stub)
    under_way, waiting = service.start("x", [1], 1), service.start("y", [1], 1)
    assert stub.begun.wait(PATIENCE)
    withdrawn = threading.Event()
    waiting.future.add_done_callback(lambda _: withdrawn.set())
    closing = threading.Thread(target=service.close)
    closing.start()
    assert withdrawn.wait(PATIENCE)
    stub.go.set()
    closing.join(PATIENCE)
    assert under_way.future.done()
    assert [text for text, _, _ in stub.inputs] == ["x"]
    model = weakref.ref(stub)
    del stub
    gc.collect()
    assert model() is None
