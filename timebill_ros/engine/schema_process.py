# SPDX-License-Identifier: Apache-2.0
"""The process that examines schemas.

Only a process can be stopped for good: a few hundred characters of intersecting patterns keep a
compiler busy for ever, and no thread that is inside of it can be ended. So a process that has all
it needs, but no torch, some 30 MB, forks a child for each schema: the next one need not wait until
another has started, as it would where a schema ended the only one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import NoReturn

from timebill_ros.engine.schema_faults import schema_fault

_CPU_SECONDS = 0.5  # for one schema; a thousand members take half of it
_SECONDS = 5.0  # for one schema, however busy the machine
_MEMORY = 2 << 30  # bytes of address space


class SchemaProcess:
    """Asks a process for the faults of schemas, one at a time, from any thread.

    The process is started when it is first needed, and again should it have ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process now, so that the first schema need not wait for it."""
        with self._lock:
            self._running()

    def fault(self, schema: str) -> str:
        """Why answers cannot be held to ``schema``; "" where nothing speaks against it."""
        with self._lock:
            try:
                answer = _ask(self._running(), schema)
            except OSError as error:
                return f"it cannot be examined: {error}"
            if not answer:
                self._end()
                return "it cannot be examined: what examines schemas has ended"
        fault = json.loads(answer)
        if fault is None:
            return f"it takes more than {_CPU_SECONDS} s to compile; simplify it"
        return str(fault)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "timebill_ros.engine.schema_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its child too
            self._process.communicate()
            self._process = None


def _ask(process: subprocess.Popen[str], schema: str) -> str:
    """The line that it answers; "" where it has ended."""
    to_it, from_it = process.stdin, process.stdout
    if to_it is None or from_it is None:
        return ""
    try:
        to_it.write(json.dumps(schema) + "\n")
        to_it.flush()
    except BrokenPipeError:
        return ""
    return from_it.readline()


def _serve() -> None:
    """Answer a line with a line until there are no more; null where its child has not answered."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(json.loads(line))
        _, status = os.waitpid(child, 0)
        if status:
            print("null", flush=True)


def _answer(schema: str) -> NoReturn:
    """Answer and end; a signal ends what takes too long."""
    status = 1
    try:
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        fault = schema_fault(schema)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(fault), flush=True)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
