# SPDX-License-Identifier: Apache-2.0
"""A node that brings itself to active, where no launch file or operator does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from timebill_ros.client.session import Session, free_domain

from .subject import PATIENCE, SETTINGS

pytestmark = pytest.mark.e2e


@contextmanager
def started(**parameters: object) -> Iterator[subprocess.Popen[str]]:
    """The node's process, with its log to be read."""
    command = [sys.executable, "-P", "-m", "timebill_ros", "llm_node", "--autostart", "--ros-args"]
    for name, value in {**SETTINGS, **parameters}.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    domain = free_domain()
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # The session takes the domain at once; the process needs seconds to come up in it.
    with (
        Session("watcher", domain),
        subprocess.Popen(command, env=environment, **streams) as process,
    ):
        # Leaving Popen waits for the process, and reading its log does: neither may be for ever.
        watchdog = threading.Timer(10 * PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def test_the_node_becomes_active_by_itself(profiles: Path) -> None:
    with started(profile_cache=str(profiles)) as process:
        lines = iter(process.stdout)
        assert any("active: instructions are taken on /llm/input/instruction" in s for s in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_a_node_that_cannot_ends_and_says_why(profiles: Path) -> None:
    with started(model="/nowhere", profile_cache=str(profiles)) as process:
        log, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "configuring failed: model '/nowhere' was not found" in log
