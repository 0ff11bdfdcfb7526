# SPDX-License-Identifier: Apache-2.0
"""Runs a length predictor on a thread of its own, beside the engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.runtime.clock import Clock, MonotonicClock, seconds


@dataclass
class ThreadedPrediction:
    """One prediction, queued for or running on the predictor's thread."""

    stopwatch: Clock
    started_ns: int | None = None
    ended_ns: int | None = None
    future: Future[LengthDistribution] = field(init=False)

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution, waiting at most ``timeout`` s; None where it is not there by then."""
        try:
            return self.future.result(timeout)
        except TimeoutError:
            return None

    def cancel(self) -> None:
        """Withdraw it, if it has not started yet; one under way runs to its end unheard."""
        self.future.cancel()

    @property
    def elapsed(self) -> float:
        """Seconds that the predictor has worked on it."""
        if self.started_ns is None:
            return 0.0
        return seconds((self.ended_ns or self.stopwatch.now_ns()) - self.started_ns)


class ThreadedPredictor:
    """A ``PredictionService`` with one worker thread.

    A prediction that nobody waits for any more still occupies the thread until it ends; the next
    one then starts late, and a request whose prediction is late plans with N_W = N_max.
    """

    def __init__(self, predictor: LengthPredictor) -> None:
        """The thread starts with its first prediction."""
        self._predictor = predictor
        self._stopwatch = MonotonicClock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predictor")

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> ThreadedPrediction:
        """Begin to predict from at most ``max_input`` tokens; returns at once."""
        prediction = ThreadedPrediction(self._stopwatch)

        def work() -> LengthDistribution:
            prediction.started_ns = self._stopwatch.now_ns()
            try:
                return self._predictor.predict(text, prompt_ids, max_input)
            finally:
                prediction.ended_ns = self._stopwatch.now_ns()

        prediction.future = self._thread.submit(work)
        return prediction

    def close(self) -> None:
        """End the thread once the prediction under way, if any, is done; let go of the model."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        del self._predictor
