# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the engine, from loading it to its last job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from timebill_ros.runtime.server import Server

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

# How often an idle worker looks whether it is to end, s; an arriving job wakes it at once.
_IDLE_POLL = 0.2


class EngineThread:
    """One thread for everything that the engine does.

    Loading and profiling run here too: compute threads are set and warmed per thread, so a
    profile taken on another one would be of another engine.
    """

    def __init__(self) -> None:
        """The thread starts with its first work."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._ending = threading.Event()
        self._serving: Future[None] | None = None

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the thread and wait for its result; not while it serves.

        Raises:
            Exception: whatever ``work`` raised.
        """
        return self._pool.submit(work).result()

    def serve(self, server: Server) -> None:
        """Serve the server's jobs from now on, until ``stop``."""
        self._serving = self._pool.submit(self._serve, server)
        self._serving.add_done_callback(_tell_failure)

    def stop(self, timeout: float) -> bool:
        """End after the running job; whether it ended within ``timeout`` s.

        The caller cancels what is in flight first, if it does not want to wait for it.
        """
        self._ending.set()
        self._pool.shutdown(wait=False)
        return self._serving is None or not wait([self._serving], timeout).not_done

    def _serve(self, server: Server) -> None:
        while not self._ending.is_set():
            if server.wait_for_job(_IDLE_POLL):
                server.serve_next()


def _tell_failure(serving: Future[None]) -> None:
    """A server's jobs fail one by one; should the server itself fail, nobody else would hear."""
    if failure := serving.exception():
        _LOG.critical("the engine's thread has ended: no job is served any more", exc_info=failure)
