# SPDX-License-Identifier: Apache-2.0
"""Starting a server, and ending the start. Waits are bounded, not timed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from timebill_ros.budget.fit import TimeModelFit
from timebill_ros.engine.protocol import Progress
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime import running_server
from timebill_ros.runtime.clock import NS_PER_S, MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.loading import Loaded
from timebill_ros.runtime.outcome import Outcome, Response
from timebill_ros.runtime.running_server import RunningServer, start_server
from timebill_ros.runtime.settings import Settings
from timebill_ros.runtime.simulation import SimulatedEngine, SimulatedRequest, VirtualClock

from .simulated import FLAT

PATIENCE = 120.0


class Engine(SimulatedEngine):
    """Notes that it was closed, and on which thread it worked."""

    def __init__(self) -> None:
        requests = {"stop": SimulatedRequest(100, 5, 16)}
        super().__init__(VirtualClock(), FLAT, requests)
        self.closed = threading.Event()
        self.worked_on = ""

    def step(self) -> None:
        self.worked_on = threading.current_thread().name
        super().step()

    def close(self) -> None:
        self.closed.set()


class Loader:
    """Stands for loading: takes as long as the test wants."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.begun, self.go = threading.Event(), threading.Event()
        self.loaded_on = ""

    def __call__(self, settings: Settings, progress: Progress) -> Loaded:
        self.loaded_on = threading.current_thread().name
        progress(0.25, f"loading {settings.model}")
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return Loaded(self.engine, None, TimeModelFit(FLAT, 0.0, 0.0, 0.0))  # type: ignore[arg-type]


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader()
    monkeypatch.setattr(running_server, "load", loader)
    return loader


def start(progress: Progress, emit: Callable[[Outcome], None] = lambda _: None) -> RunningServer:
    return start_server(
        Settings(),
        clock=MonotonicClock(),
        emit=emit,
        observe=lambda _: None,
        progress=progress,
    )


def test_a_started_server_answers_on_the_thread_that_loaded_it(loader: Loader) -> None:
    loader.go.set()
    outcomes: list[Outcome] = []
    told: list[tuple[float, str, str]] = []

    def progress(share: float, doing: str) -> None:
        told.append((share, doing, threading.current_thread().name))

    running = start(progress, outcomes.append)
    now_ns = MonotonicClock().now_ns()
    running.server.submit(Job("a", Conversation("", "stop"), now_ns, now_ns + 3600 * NS_PER_S))
    assert running.server.wait_until_idle(PATIENCE)
    running.release(PATIENCE)
    assert [type(o) for o in outcomes] == [Response]
    assert loader.engine.worked_on == loader.loaded_on
    assert loader.engine.closed.is_set()
    assert told[-1][:2] == (0.25, "loading embedded")
    assert {name for *_, name in told} == {threading.current_thread().name}


def test_a_start_ends_at_once_though_loading_hangs_and_nothing_is_kept(loader: Loader) -> None:
    def cancel(share: float, doing: str) -> None:
        if loader.begun.is_set():
            raise InterruptedError("the node is ending")

    with pytest.raises(InterruptedError, match="the node is ending"):
        start(cancel)
    assert not loader.engine.closed.is_set(), "loading is still at it"
    loader.go.set()
    assert loader.engine.closed.wait(PATIENCE)


def test_loading_that_was_given_up_stops_at_its_next_step(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def in_steps(settings: Settings, progress: Progress) -> Loaded:
        loader(settings, progress)
        try:
            progress(0.5, "profiling")
        except BaseException:
            ended.set()
            raise
        raise AssertionError("went on")

    monkeypatch.setattr(running_server, "load", in_steps)

    def cancel(share: float, doing: str) -> None:
        if loader.begun.is_set():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        start(cancel)
    loader.go.set()
    assert ended.wait(PATIENCE)


def test_what_loading_finds_wrong_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(settings: Settings, progress: Progress) -> Loaded:
        raise FileNotFoundError("no such model")

    monkeypatch.setattr(running_server, "load", load)
    with pytest.raises(FileNotFoundError, match="no such model"):
        start(lambda share, doing: None)
