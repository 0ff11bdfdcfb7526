# SPDX-License-Identifier: Apache-2.0
"""Length predictions on a thread of their own, beside the engine, and what a job makes of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.predictor.hidden_predictor import HiddenStatePredictor
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.runtime.clock import Clock, MonotonicClock, seconds

_LOG = logging.getLogger(__name__)


class PendingPrediction(Protocol):
    """A prediction under way beside prefill."""

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution, waiting at most ``timeout`` s; None where it is not there by then.

        Raises:
            Exception: whatever the predictor raised.
        """

    def cancel(self) -> None:
        """Nobody waits for it any more; one that has not started never will."""

    @property
    def elapsed(self) -> float:
        """Seconds that the predictor has worked on it."""


class PredictionService(Protocol):
    """Starts predictions that run beside the engine."""

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> PendingPrediction:
        """Begin to predict from at most ``max_input`` tokens; returns at once."""

    def close(self) -> None:
        """Let go of the predictor, once what is under way has ended."""


class JobPrediction:
    """One job's prediction, which may be late or broken: the job is planned without it then.

    Attributes:
        fault: why the predictor failed; "" where it did not.
    """

    def __init__(self, job_id: str) -> None:
        """Nothing is predicted until ``start``."""
        self.fault = ""
        self._job_id = job_id
        self._pending: PendingPrediction | None = None

    def start(self, predictor: PredictionService, request: PreparedRequest, longest: int) -> None:
        """Begin to predict from at most ``longest`` tokens; returns at once."""
        try:
            self._pending = predictor.start(request.text, request.prompt_ids, longest)
        except Exception as failure:  # noqa: BLE001 - a job runs without its prediction too
            self._failed(failure)

    def within(self, timeout: float) -> LengthDistribution | None:
        """The distribution, waiting at most ``timeout`` s; None where it is late or broken."""
        if self._pending is None or self.fault:
            return None
        try:
            return self._pending.wait(timeout)
        except Exception as failure:  # noqa: BLE001 - a job runs without its prediction too
            self._failed(failure)
            return None

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._pending is not None:
            self._pending.cancel()

    @property
    def elapsed(self) -> float:
        """Seconds that the predictor has worked on it."""
        return 0.0 if self._pending is None else self._pending.elapsed

    def _failed(self, failure: Exception) -> None:
        self.fault = f"{type(failure).__name__}: {failure}"
        _LOG.warning("%s: the length predictor failed: %s", self._job_id, self.fault)


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

    def __init__(self, predictor: LengthPredictor, stopwatch: Clock | None = None) -> None:
        """The thread starts with its first prediction; ``stopwatch`` times it, monotonic unset."""
        self._predictor = predictor
        self._stopwatch = stopwatch or MonotonicClock()
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


class StatePredictor:
    """A ``PredictionService`` that reads the target's own state, once prefill is over.

    Args:
        predictor: what it says of a state.
        state: the engine's state; None before the prompt's end.
        stopwatch: times the predictions, monotonic unset.
    """

    def __init__(
        self,
        predictor: HiddenStatePredictor,
        state: Callable[[], NDArray[np.float32] | None],
        stopwatch: Clock | None = None,
    ) -> None:
        self._predictor = predictor
        self._state = state
        self._stopwatch = stopwatch or MonotonicClock()

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> StatePrediction:
        """Nothing runs before the prompt's end, and nothing but the target reads the prompt."""
        return StatePrediction(self._predictor, self._state, self._stopwatch)

    def close(self) -> None:
        """Let go of the engine's state; whoever asks later gets no prediction."""
        self._state = _no_state


def _no_state() -> None:
    """There is none."""


class StatePrediction:
    """One prediction, made on the engine's thread at the moment it is asked for: microseconds."""

    def __init__(
        self,
        predictor: HiddenStatePredictor,
        state: Callable[[], NDArray[np.float32] | None],
        stopwatch: Clock,
    ) -> None:
        self._predictor = predictor
        self._state = state
        self._stopwatch = stopwatch
        self._elapsed = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds that it took."""
        return self._elapsed

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution; None before the prompt's end, whatever the time."""
        state = self._state()
        if state is None:
            return None
        started = self._stopwatch.now_ns()
        lengths = self._predictor.predict(state)
        self._elapsed += seconds(self._stopwatch.now_ns() - started)
        return lengths

    def cancel(self) -> None:
        """Nothing runs."""
