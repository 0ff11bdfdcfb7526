# SPDX-License-Identifier: Apache-2.0
"""Ending the node's process from outside loses no instruction."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.node_process import NodeProcessError
from timebill_ros.msg import Overrun

from .subject import PATIENCE, Subject, ended_by, long_work

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_the_node_in_order(profiles: Path, number: signal.Signals) -> None:
    with Subject(profiles) as node:
        node.serve()
        with node.client() as client:
            for index in range(10):
                client.send(long_work(f"job {index}"))
            assert client.wait_for(client.exchanges["job 0"], timeout=PATIENCE)
            node.process.send_signal(number)
            assert client.wait_for_all(PATIENCE)
            client.spin(0.2)
            endings = [ended_by(exchange) for exchange in client.exchanges.values()]
        assert node.process.wait(PATIENCE) == 0
    canceled = [ending for ending in endings if isinstance(ending, Overrun)]
    assert canceled
    assert {overrun.reason for overrun in canceled} == {Overrun.CANCELED}


def test_goals_in_flight_get_their_results_before_a_signal_ends_the_node(profiles: Path) -> None:
    with Subject(profiles) as node:
        node.serve()
        with InstructionClient(server=node.name, domain=node.domain) as client:
            client.wait_for_node(PATIENCE)
            goals = [client.send(long_work(f"job {index}")) for index in range(10)]
            assert client.wait_for(goals[0], timeout=PATIENCE)
            node.process.send_signal(signal.SIGTERM)
            assert client.wait_for(*goals, timeout=PATIENCE)
        assert node.process.wait(PATIENCE) == 0
    canceled = [goal.terminal for goal in goals if isinstance(goal.terminal, Overrun)]
    assert canceled
    assert {overrun.reason for overrun in canceled} == {Overrun.CANCELED}


def test_signals_in_a_row_end_the_node_as_one_does(profiles: Path) -> None:
    """Ctrl-C reaches the node from its terminal, and from launch once more."""
    with Subject(profiles) as node:
        while node.process.poll() is None:
            node.process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert node.process.returncode == 0


def test_a_signal_ends_a_configuration_under_way(tmp_path: Path) -> None:
    """Profiling is not kept anywhere here, and takes far longer than the wait for its end."""
    with Subject(tmp_path) as node:
        node.set_parameters({"max_context": 8192, "profile_seconds": 600.0})
        with pytest.raises(NodeProcessError, match="did not answer"):
            node.configure(timeout=2.0)
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(PATIENCE) == 0
