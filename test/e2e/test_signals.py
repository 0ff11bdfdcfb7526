# SPDX-License-Identifier: Apache-2.0
"""Ending the node's process from outside loses no instruction."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.node_process import NodeProcessError
from timebill_ros.msg import Overrun

from .subject import PATIENCE, Lookout, Subject, endless_work, overruns, settle

pytestmark = pytest.mark.e2e
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)


@BOTH
def test_a_signal_ends_the_node_in_order(profiles: Path, number: signal.Signals) -> None:
    with Subject(profiles) as node:
        node.serve()
        with node.client() as client, Lookout(node) as lookout:
            settle(client)
            jobs = [client.send(endless_work(f"job {index}")) for index in range(10)]
            lookout.see(decoding="job 0", waiting=9)
            node.process.send_signal(number)
            assert client.wait_for_all(PATIENCE)
            assert node.process.wait(PATIENCE) == 0
            client.spin(0.2)  # what it said last may still be on its way
        assert [overruns(job) for job in jobs] == [[Overrun.CANCELED]] * 10


def test_goals_in_flight_get_their_results_before_a_signal_ends_the_node(profiles: Path) -> None:
    with Subject(profiles) as node:
        node.serve()
        with (
            InstructionClient(server=node.name, domain=node.domain) as client,
            Lookout(node) as lookout,
        ):
            client.wait_for_node(PATIENCE)
            goals = [client.send(endless_work(f"job {index}")) for index in range(10)]
            lookout.see(decoding="job 0", waiting=9)
            client.spin(1.0)  # so that it hears of their acceptance, and asks for the results
            node.process.send_signal(signal.SIGTERM)
            assert client.wait_for(*goals, timeout=PATIENCE)
        assert node.process.wait(PATIENCE) == 0
    terminals = [goal.terminal for goal in goals]
    assert all(isinstance(terminal, Overrun) for terminal in terminals)
    assert {terminal.reason for terminal in terminals} == {Overrun.CANCELED}


@BOTH
def test_signals_in_a_row_end_the_node_as_one_does(profiles: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches the node from its terminal, and from launch once more."""
    with Subject(profiles) as node:
        while node.process.poll() is None:
            node.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(0.005)
        assert node.process.returncode == 0


def test_a_signal_ends_a_configuration_under_way(tmp_path: Path) -> None:
    """Profiling is not kept anywhere here, and takes far longer than the wait for its end."""
    with Subject(tmp_path) as node:
        node.set_parameters({"max_context": 8192, "profile_seconds": 600.0})
        with pytest.raises(NodeProcessError, match="did not answer"):
            node.configure(timeout=0.0)
        assert node.says("measuring it")
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(PATIENCE) == 0


def test_a_signal_ends_the_wait_for_a_hub_that_never_answers(
    profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        with Subject(profiles) as node:
            node.set_parameters({"model": "someone/some-model"})
            with pytest.raises(NodeProcessError, match="did not answer"):
                node.configure(timeout=0.0)
            assert node.says("asking the hub for it")
            node.process.send_signal(signal.SIGINT)
            assert node.process.wait(PATIENCE) == 0


def test_a_signal_ends_the_wait_for_a_server_that_never_answers(profiles: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Subject(profiles) as node:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        # Longer than the wait for the node's end.
        node.set_parameters({"engine": "served", "url": url, "request_timeout": 2 * PATIENCE})
        with pytest.raises(NodeProcessError, match="did not answer"):
            node.configure(timeout=0.0)
        assert node.says("asking the server what it runs")
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(PATIENCE) == 0


@BOTH
def test_a_signal_before_the_node_is_there_ends_it_as_well(number: signal.Signals) -> None:
    """It comes while the first of the large libraries is imported."""
    early = f"""
import os, sys
from importlib.abc import MetaPathFinder
class Signal(MetaPathFinder):
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "rclpy" and self in sys.meta_path:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signal())
from timebill_ros.node.main import main
sys.exit(main(["llm_node"]))
"""
    command = [sys.executable, "-P", "-c", early]
    done = subprocess.run(command, env=os.environ, timeout=PATIENCE, check=False)
    assert done.returncode == 0
