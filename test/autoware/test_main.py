# SPDX-License-Identifier: Apache-2.0
"""The adapter as a process of its own, with and without Autoware's messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from timebill_ros.autoware.interfaces import AD_API, PLANNING, InterfacesMissing
from timebill_ros.client.session import Session, free_domain

from .interface_build import environment, installed

TIMEOUT = 120.0
COMMAND = [sys.executable, "-P", "-m", "timebill_ros", "autoware_adapter"]


@pytest.mark.parametrize("package", [AD_API, PLANNING])
def test_a_missing_package_is_named_with_where_it_comes_from(package: str) -> None:
    apt = f"apt install ros-jazzy-{package.replace('_', '-')}"
    assert f"{package} is not installed: {apt}" in str(InterfacesMissing(package))


def test_it_loads_no_framework_for_models() -> None:
    code = "import sys, timebill_ros.autoware.adapter_node as _; print('torch' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.e2e
@pytest.mark.skipif(installed(), reason="Autoware's messages are installed")
def test_without_autoware_it_ends_and_says_why() -> None:
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=os.environ.copy()
    )
    assert done.returncode == 1
    assert done.stderr.startswith("autoware_adapter: autoware_adapi_v1_msgs is not installed: apt")


@pytest.mark.e2e
def test_a_bad_parameter_ends_it(interfaces: Path | None) -> None:
    done = subprocess.run(
        [*COMMAND, "--ros-args", "-p", "max_age:=-1.0"],
        env=environment(interfaces) if interfaces else os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert "max_age" in done.stderr


@pytest.mark.e2e
def test_it_runs_until_it_is_interrupted(interfaces: Path | None) -> None:
    domain = free_domain()
    known = environment(interfaces) if interfaces else os.environ.copy()
    with (
        subprocess.Popen(COMMAND, env={**known, "ROS_DOMAIN_ID": str(domain)}) as process,
        Session("watcher", domain) as session,
    ):
        told: list[DiagnosticArray] = []  # by a timer, so that it is being spun
        session.node.create_subscription(DiagnosticArray, "/diagnostics", told.append, 10)
        assert session.spin_until(lambda: bool(told), TIMEOUT)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
