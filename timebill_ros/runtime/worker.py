# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable

from timebill_ros.runtime.server import Server

# How often an idle worker looks whether it is to end; an arriving job wakes it at once.
_IDLE_POLL = 0.2


class Worker:
    """Serves a server's jobs on one thread of its own, from ``start`` to ``stop``."""

    def __init__(self, server: Server, *, bind_thread: Callable[[], None] | None = None) -> None:
        """``bind_thread`` is called once on the thread, to set its number of compute threads."""
        self._server = server
        self._bind_thread = bind_thread
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End after the running job; whether it ended within ``timeout`` s.

        The caller cancels what is in flight first, if it does not want to wait for it.
        """
        self._ending.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        if self._bind_thread is not None:
            self._bind_thread()
        while not self._ending.is_set():
            if self._server.wait_for_job(_IDLE_POLL):
                self._server.serve_next()
