# SPDX-License-Identifier: Apache-2.0
"""Connects a loaded engine and predictor to a server that is served on the engine's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from timebill_ros.engine.protocol import Engine, Progress
from timebill_ros.runtime.clock import Clock, MonotonicClock
from timebill_ros.runtime.coverage import CoverageTracker
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.loading import load
from timebill_ros.runtime.outcome import Outcome
from timebill_ros.runtime.partial import Observer
from timebill_ros.runtime.pipeline import Pipeline
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.prediction import ThreadedPredictor
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.settings import Settings
from timebill_ros.runtime.worker import EngineThread

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assembly:
    """A server that is being served, and what must be given back after it.

    Attributes:
        server: takes jobs from any thread.
        device: where the model runs, for people.
        max_prompt_chars: a prompt of more characters cannot fit the model's context.
    """

    server: Server
    device: str
    max_prompt_chars: int
    _engine: Engine
    _thread: EngineThread
    _predictor: ThreadedPredictor | None

    def release(self, timeout: float) -> None:
        """End the threads and give the memory back; the caller has closed the server."""
        if not self._thread.stop(timeout):
            _LOG.error("the engine's thread did not end within %.1f s", timeout)
            return
        if self._predictor is not None:
            self._predictor.close()
        self._engine.close()


def assemble(
    settings: Settings,
    *,
    clock: Clock,
    emit: Callable[[Outcome], None],
    observe: Callable[[Job], Observer | None],
    progress: Progress,
) -> Assembly:
    """Load, profile and warm up on the engine's thread, then serve on it.

    Args:
        settings: what the user wants.
        clock: deadlines are instants of this clock.
        emit: called with every outcome, see ``Server``.
        observe: says who watches a job that starts, see ``Server``.
        progress: told of every step.

    Raises:
        SettingError: a setting that cannot be worked with, by name.
        EngineError, PredictorError: a checkpoint that cannot be worked with, by name.
    """
    # What needs no model is checked before one is loaded.
    decided = decisions(settings)
    thread = EngineThread()
    try:
        loaded = thread.call(lambda: load(settings, progress))
        predictor = None if loaded.predictor is None else ThreadedPredictor(loaded.predictor)
        pipeline = Pipeline(
            engine=loaded.engine,
            time_model=loaded.fit.model,
            predictor=predictor,
            clock=clock,
            stopwatch=MonotonicClock(),
            default_max_tokens=settings.max_tokens,
            predictor_grace=settings.predictor_grace,
            coverage=CoverageTracker(loaded.calibration),
            quality=loaded.quality,
        )
        server = Server(
            pipeline,
            decided,
            queue_capacity=settings.queue_capacity,
            emit=emit,
            observe=observe,
        )
        thread.serve(server)
    except BaseException:
        thread.stop(0.0)
        raise
    engine = loaded.engine
    return Assembly(server, engine.device, engine.max_prompt_chars, engine, thread, predictor)
