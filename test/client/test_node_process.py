# SPDX-License-Identifier: Apache-2.0
"""Starting, watching and ending the node's process; the node itself is only started here."""

from __future__ import annotations

import signal
import socket
import sys

import pytest
import yaml

from timebill_ros.client.node_process import NodeProcess, NodeProcessError, node_command
from timebill_ros.client.session import free_domain

# Not ended by SIGINT, nor by anything but another signal.
DEAF = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""


def running(code: str) -> list[str]:
    """A command that runs this Python code in the node's place."""
    return [sys.executable, "-c", code]


def test_overrides_keep_their_type() -> None:
    overrides = {"predictor": "none", "model": "1", "threads": 2, "alpha_max": 0.5, "stop": ["a:b"]}
    command = node_command(overrides, "robot", ["-r", "a:=b"])
    given = [text.split(":=", 1) for text in command if ":=" in text]
    assert {name: yaml.safe_load(value) for name, value in given[1:-1]} == overrides
    assert given[0] == ["__ns", "/robot"]
    assert command[-2:] == ["-r", "a:=b"]


def test_a_process_that_ends_is_reported_with_its_last_lines() -> None:
    node = NodeProcess(command=running("print('the reason'); raise SystemExit(3)"))
    with pytest.raises(NodeProcessError, match=r"(?s)ended with status 3.*the reason"):
        node.__enter__()


def test_a_process_without_services_is_given_up_and_ended() -> None:
    lines: list[str] = []
    node = NodeProcess(command=running(DEAF), end_timeout=0.5, on_log=lines.append)
    with pytest.raises(NodeProcessError, match="has no lifecycle services after 3 s"):
        node.start(timeout=3.0)
    assert node.stop() == -signal.SIGTERM
    assert lines == ["up"]


@pytest.mark.e2e
def test_a_failing_caller_leaves_no_process() -> None:
    node = NodeProcess()
    with pytest.raises(ZeroDivisionError), node:
        raise ZeroDivisionError
    assert node.process.returncode is not None


def test_a_domain_in_use_is_not_free() -> None:
    domain = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 7400 + 250 * domain + 10))
        assert free_domain() < domain


@pytest.mark.e2e
def test_the_node_comes_up_and_says_why_it_cannot_be_configured() -> None:
    with NodeProcess({"model": "/nowhere"}) as node:
        assert node.state() == "unconfigured"
        with pytest.raises(NodeProcessError, match=r"failed to configure(?s:.*)/nowhere"):
            node.configure(timeout=60.0)
        assert node.state() == "unconfigured"
        with pytest.raises(NodeProcessError, match=r"refused.*pessimism"):
            node.set_parameters({"model": "/elsewhere", "pessimism": 0.5})
        node.set_parameters({"model": "/elsewhere", "pessimism": 2.0})
        with pytest.raises(NodeProcessError, match=r"failed to configure(?s:.*)/elsewhere"):
            node.configure(timeout=60.0)
        node.shutdown()
        assert node.state() == "finalized"
    assert node.process.returncode == 0
