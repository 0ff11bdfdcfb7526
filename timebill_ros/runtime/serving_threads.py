# SPDX-License-Identifier: Apache-2.0
"""The threads that serve: the engine's own, two that prepare jobs, and how they wait."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from timebill_ros.runtime.server import Server

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# How often an idle thread looks whether it is to end, s; an arriving job wakes it at once.
_IDLE_POLL = 0.2

# OpenMP as torch's wheels bring it for Linux, and Intel's and LLVM's own.
_PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
_SPINNING = "GOMP_SPINCOUNT"


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let an operation's threads sleep while they wait, unless the environment says otherwise.

    OpenMP's threads wait actively by default: at the end of every operation they spin for the
    slowest. Where another process has taken a core, the slowest is not even running, and the others
    burn the time that it would need. Beside busy processes a decoding step then took 20 times its
    undisturbed time. With passive waiting it takes its fair share. Undisturbed it takes a third
    more, as threads are woken for every product: there a spin count is worth setting.

    To be called before torch is imported: OpenMP reads the environment when it is loaded, and there
    is no other way to tell it.
    """
    if _SPINNING in environment:
        return
    for name, value in _PASSIVE.items():
        environment.setdefault(name, value)


class ServingThreads:
    """One thread for everything that the engine does, and two that prepare jobs.

    One of the two takes only jobs that are prepared in a moment. So a schema that takes seconds to
    compile does not delay them.

    Loading and profiling run on the engine's thread too: compute threads are set and warmed per
    thread, so a profile taken on another one would be of another engine.
    """

    def __init__(self) -> None:
        """The threads start with their first work."""
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._preparation = ThreadPoolExecutor(max_workers=2, thread_name_prefix="preparation")
        self._ending = threading.Event()
        self._serving: list[Future[None]] = []

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin ``work`` on the engine's thread; not while it serves."""
        return self._engine.submit(work)

    def serve(self, server: Server) -> None:
        """Prepare and serve the server's jobs from now on, until ``stop``."""
        self._serving = [
            self._engine.submit(self._serve, server),
            self._preparation.submit(self._prepare, server, light_only=False),
            self._preparation.submit(self._prepare, server, light_only=True),
        ]
        for serving in self._serving:
            serving.add_done_callback(_tell_failure)

    def stop(self, timeout: float) -> bool:
        """End after the running job; whether all threads ended within ``timeout`` s.

        The caller cancels what is in flight first, if it does not want to wait for it.
        """
        self._ending.set()
        self._engine.shutdown(wait=False)
        self._preparation.shutdown(wait=False)
        return not wait(self._serving, timeout).not_done

    def _serve(self, server: Server) -> None:
        while not self._ending.is_set():
            server.wait_for_prepared(_IDLE_POLL)
            server.serve_next()

    def _prepare(self, server: Server, *, light_only: bool) -> None:
        while not self._ending.is_set():
            server.wait_for_unprepared(_IDLE_POLL, light_only=light_only)
            server.prepare_next(light_only=light_only)


def _tell_failure(serving: Future[None]) -> None:
    """A server's jobs fail one by one; should the server itself fail, nobody else would hear."""
    if failure := serving.exception():
        _LOG.critical("a thread has ended: no job is served any more", exc_info=failure)
