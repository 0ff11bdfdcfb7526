# SPDX-License-Identifier: Apache-2.0
"""Starts a server: loads, profiles and warms up, then serves on threads of its own."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.errors import ServerError
from timebill_ros.engine.protocol import Progress
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import Clock, MonotonicClock
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.runtime.engine_chain import ChainedEngine, EngineChain
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.loading import Loaded, load, load_served
from timebill_ros.runtime.outcome import Observer, Outcome
from timebill_ros.runtime.pace_tracker import PaceTracker, Slowdown
from timebill_ros.runtime.policy import Decisions, decisions
from timebill_ros.runtime.prediction import PredictionService, ThreadedPredictor
from timebill_ros.runtime.quote import Quotes
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.serving_threads import ServingThreads
from timebill_ros.runtime.settings import Settings

_LOG = logging.getLogger(__name__)

# How often the caller is told how far loading has come, and may end it, s.
_HEARTBEAT = 0.2
# How soon a server that is away is looked for again, at first and at last, s.
_FIRST_LOOK, _LAST_LOOK = 1.0, 60.0


@dataclass(frozen=True)
class RunningServer:
    """A server that is being served, and what must be given back after it.

    Attributes:
        server: takes jobs from any thread.
        quotes: what jobs could be promised, on any thread that may wait some milliseconds.
        chain: the engines, and how they have done.
        device: where the model runs, for people.
        max_prompt_chars: a prompt of more characters cannot fit the model's context.
    """

    server: Server
    quotes: Quotes
    chain: EngineChain
    device: str
    max_prompt_chars: int
    _threads: ServingThreads
    _parts: tuple[ServerParts, ...]
    _absent: AbsentServer

    def decide(self, decided: Decisions) -> None:
        """Plan, treat and quote the next jobs otherwise."""
        self.quotes.decide(decided)
        self.server.decide(decided)

    def release(self, timeout: float) -> None:
        """End the threads and give the memory back; the caller has closed the server."""
        late = self._absent.stop()
        if not self._threads.stop(timeout):
            _LOG.error("the engine's thread did not end within %.1f s", timeout)
            return
        every = [each for parts in (*self._parts, *late) for each in parts.models]
        for predictor in {id(each.predictor): each.predictor for each in every}.values():
            if predictor is not None:
                predictor.close()
        for each in every:
            each.engine.close()
        _give_memory_back()


class AbsentServer:
    """Looks for a server that was away when the engines were loaded, and has it join them.

    On a thread of its own, after a second, then two, four, up to a minute. A server that is there
    is timed as at the start, while the other engines answer.
    """

    def __init__(self, settings: Settings, clock: Clock, chain: EngineChain) -> None:
        """Nothing is looked for yet."""
        self._settings = settings
        self._clock = clock
        self._chain = chain
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._joined: list[ServerParts] = []

    def look(self) -> None:
        """Look for it from now on."""
        threading.Thread(target=self._look, name="absent", daemon=True).start()

    def stop(self) -> list[ServerParts]:
        """Look no more; what has joined, for the caller to close once no job runs."""
        with self._lock:
            self._stopped.set()
            return self._joined

    def _look(self) -> None:
        pause, said = _FIRST_LOOK, ""
        while not self._stopped.wait(pause):
            pause = min(2.0 * pause, _LAST_LOOK)
            try:
                loaded = load_served(self._settings, self._report)
            except _Canceled:
                return
            except (SettingError, ServerError) as failure:
                if (why := str(failure)) != said:
                    _LOG.warning("the engine served still cannot be used: %s", why)
                said = why
            except Exception:  # noqa: BLE001 - the other engines go on whatever it raises
                _LOG.exception("the engine served is left out until the node is configured again")
                return
            else:
                self._join(loaded)
                return

    def _report(self, share: float, doing: str) -> None:
        if self._stopped.is_set():
            raise _Canceled

    def _join(self, loaded: Loaded) -> None:
        with self._lock:
            if self._stopped.is_set():
                loaded.close()
                return
            settings = self._settings
            parts = _parts(loaded, self._clock, settings.predictor_grace, {})
            self._joined.append(parts)
            engine = ChainedEngine(parts, _preparation(parts, settings.max_tokens))
            self._chain.join(engine, ahead=settings.engines[0] == parts.name)
        _LOG.info("the engine %s has joined: %s", parts.name, parts.engine.device)


def _give_memory_back() -> None:
    """Have Python collect what holds itself in circles, and the allocator return its free pages.

    Python's own collections become rare as a process grows, and glibc keeps what lies below a piece
    in use. Without this a process grew by 50 MB in twenty reloads.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def start_server(
    settings: Settings,
    *,
    clock: Clock,
    emit: Callable[[Outcome], None],
    observe: Callable[[Job], Observer | None],
    progress: Progress,
) -> RunningServer:
    """Load, profile and warm up on the engine's thread, then serve on it.

    Blocks until the server is ready, so it is for a thread that may wait. ``progress`` is called
    on that same thread several times a second, whatever loading is busy with. What it raises ends
    the start at once: loading stops at its next step, and gives back what it holds by itself.

    Args:
        settings: what the user wants.
        clock: deadlines are instants of this clock.
        emit: called with every outcome, see ``Server``.
        observe: says who watches a job that starts, see ``Server``.
        progress: told how far loading has come; may raise to end it.

    Raises:
        SettingError: a setting that cannot be worked with, by name.
        EngineError, PredictorError: a checkpoint that cannot be worked with, by name.
        Exception: whatever ``progress`` raised.
    """
    # What needs no model is checked before one is loaded.
    decided = decisions(settings)
    threads = ServingThreads()
    try:
        loaded = _load(settings, threads, progress)
        every = (loaded, *loaded.others)
        started: dict[int, PredictionService] = {}
        parts, *others = (_parts(each, clock, settings.predictor_grace, started) for each in every)
        first, *following = (_preparation(each, settings.max_tokens) for each in (parts, *others))
        chain = EngineChain(
            parts,
            [ChainedEngine(each, own) for each, own in zip(others, following, strict=True)],
            loaded.absent,
        )
        absent = AbsentServer(settings, clock, chain)
        quotes = Quotes(chain, decided, first)
        server = Server(
            parts,
            decided,
            prepare=quotes,
            queue_capacity=settings.queue_capacity,
            emit=emit,
            observe=observe,
            chain=chain,
        )
        threads.serve(server)
        if loaded.absent:
            absent.look()
    except BaseException:
        threads.stop(0.0)
        raise
    device = ", then ".join(each.engine.device for each in every)
    longest = max(each.engine.max_prompt_chars for each in parts.models)
    every_part = (parts, *others)
    return RunningServer(server, quotes, chain, device, longest, threads, every_part, absent)


def _preparation(parts: ServerParts, max_tokens: int) -> Preparation:
    """Prepares jobs for every model of an engine."""
    first, *smaller = (each.engine for each in parts.models)
    return Preparation(first, max_tokens, smaller)


def _parts(
    loaded: Loaded, clock: Clock, grace: float, started: dict[int, PredictionService]
) -> ServerParts:
    """What jobs meet on one engine.

    ``started`` holds the predictors that run already, for models may share one.
    """
    predictor: PredictionService | None = loaded.states
    if loaded.predictor is not None:
        own = id(loaded.predictor)
        predictor = started[own] = started.get(own) or ThreadedPredictor(loaded.predictor)
    return ServerParts(
        engine=loaded.engine,
        time_model=loaded.fit.model,
        predictor=predictor,
        clock=clock,
        stopwatch=MonotonicClock(),
        predictor_grace=grace,
        coverage=CoverageTracker(loaded.calibration),
        pace=PaceTracker(prefill_error=loaded.fit.prefill_mape),
        slowdown=Slowdown() if loaded.shared or loaded.fit.disturbance else None,
        quality=loaded.quality,
        selection=loaded.selection,
        name=loaded.name,
        model=loaded.model,
        smaller=tuple(_parts(each, clock, grace, started) for each in loaded.smaller),
    )


class _Canceled(Exception):
    """Nobody waits for what is being loaded any more."""


class _LoadingState:
    """How far loading has come: written by the engine's thread, read by the one that waits."""

    def __init__(self) -> None:
        self.canceled = threading.Event()
        self.latest = (0.0, "starting")

    def report(self, share: float, doing: str) -> None:
        """Called by loading between any two of its steps."""
        if self.canceled.is_set():
            raise _Canceled
        self.latest = (share, doing)


def _load(settings: Settings, threads: ServingThreads, progress: Progress) -> Loaded:
    """Load on the engine's thread; tell ``progress`` on this one until it is done."""
    state = _LoadingState()
    loading = threads.start(lambda: load(settings, state.report))
    told: tuple[float, str] | None = None
    try:
        while wait([loading], 0.0 if told is None else _HEARTBEAT).not_done:
            told = state.latest
            progress(*told)
        loaded = loading.result()
        progress(*state.latest)
    except BaseException:
        state.canceled.set()
        loading.add_done_callback(_give_back)
        raise
    return loaded


def _give_back(loading: Future[Loaded]) -> None:
    """Let go of what was loaded although nobody waits for it any more."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().close()
