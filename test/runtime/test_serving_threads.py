# SPDX-License-Identifier: Apache-2.0
"""The engine's thread from loading to its end. Waits are bounded, not timed."""

from __future__ import annotations

import threading

import pytest

from timebill_ros.runtime.serving_threads import ServingThreads

from .simulated import Scene

PATIENCE = 120.0


def test_an_exception_while_loading_reaches_the_caller_and_the_thread_still_ends() -> None:
    thread = ServingThreads()

    def load() -> None:
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        thread.start(load).result(PATIENCE)
    assert thread.stop(PATIENCE)


def test_everything_runs_on_one_thread_of_its_own() -> None:
    thread, begun, go = ServingThreads(), threading.Event(), threading.Event()

    def load() -> int:
        begun.set()
        assert go.wait(PATIENCE)
        return threading.get_ident()

    loading = thread.start(load)
    assert begun.wait(PATIENCE)
    # A second thread, if there were one, would take this up at once.
    behind = thread.start(threading.get_ident)
    go.set()
    later = thread.start(threading.get_ident)
    assert loading.result(PATIENCE) == behind.result(PATIENCE) == later.result(PATIENCE)
    assert loading.result() != threading.get_ident()
    assert thread.stop(PATIENCE)


class Stuck:
    """Stands for a server whose engine is in the middle of a piece of work."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.served = 0

    def wait_for_prepared(self, timeout: float) -> None:
        """There is one."""

    def wait_for_unprepared(self, timeout: float, *, light_only: bool) -> None:
        """There is none, and nobody waits for it."""

    def prepare_next(self, *, light_only: bool) -> bool:
        return False

    def serve_next(self) -> bool:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        self.served += 1
        return True


def test_stopping_tells_whether_the_job_under_way_has_ended() -> None:
    thread, server = ServingThreads(), Stuck()
    thread.serve(server)  # type: ignore[arg-type]
    assert server.begun.wait(PATIENCE)
    assert not thread.stop(0.0)
    server.go.set()
    assert thread.stop(PATIENCE)
    assert server.served == 1  # no other one was begun


def test_an_idle_thread_ends_without_a_job() -> None:
    scene, thread = Scene(), ServingThreads()
    thread.serve(scene.server)
    assert thread.stop(PATIENCE)
    assert scene.outcomes == []


def test_nothing_runs_after_the_end() -> None:
    thread = ServingThreads()
    assert thread.stop(0.0)
    with pytest.raises(RuntimeError, match="shutdown"):
        thread.start(lambda: None)


class Broken(Stuck):
    """Stands for a server that fails itself, where it should have failed a job."""

    def serve_next(self) -> bool:
        raise RuntimeError("no outcome for this")


def test_a_server_that_fails_is_not_passed_over_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread = ServingThreads()
    thread.serve(Broken())  # type: ignore[arg-type]
    assert thread.stop(PATIENCE)
    assert "no job is served any more" in caplog.text
    assert "no outcome for this" in caplog.text
