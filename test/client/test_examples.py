# SPDX-License-Identifier: Apache-2.0
"""The examples, against a stand-in for the node."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.node import Node

from test.client.goals import TIMEOUT, StandIn
from test.page_commands import fenced
from timebill_ros.client import Ending, InstructionClient
from timebill_ros.client.session import free_domain

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
IN_A_NODE, IN_A_SCRIPT = fenced(ROOT / "docs" / "client.md", "python")


@pytest.fixture(scope="module")
def tree() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "behavior_tree.py")))


@pytest.fixture
def client(stand_in: tuple[StandIn, int]) -> Iterator[InstructionClient]:
    with InstructionClient(domain=stand_in[1]) as client:
        client.wait_for_node(TIMEOUT)
        yield client


def test_a_leaf_runs_until_its_answer_is_there(
    tree: SimpleNamespace, client: InstructionClient
) -> None:
    leaf = tree.Ask(client, lambda: "go", budget=60.0)
    seen = [leaf.tick()]
    assert client.wait_until(
        lambda: seen.append(leaf.tick()) or seen[-1] is not tree.Status.RUNNING, TIMEOUT
    )
    assert seen[0] is tree.Status.RUNNING
    assert seen[-1] is tree.Status.SUCCESS
    assert leaf.record.text == "go"
    assert leaf.tick() is tree.Status.RUNNING  # the next instruction


def test_a_leaf_fails_with_any_other_end_and_the_default_counts(
    tree: SimpleNamespace, client: InstructionClient
) -> None:
    decisions: list[str | None] = []
    fallback = tree.Fallback(tree.Ask(client, lambda: "", budget=60.0), default="wait")
    assert client.wait_until(lambda: decisions.append(fallback.tick()) or decisions[-1], TIMEOUT)
    assert set(decisions) == {None, "wait"}


def test_a_halt_cancels(tree: SimpleNamespace, client: InstructionClient) -> None:
    leaf = tree.Ask(client, lambda: "wait", budget=60.0)
    assert leaf.tick() is tree.Status.RUNNING
    leaf.halt()
    leaf.halt()  # twice, as trees do
    (exchange,) = client.exchanges.values()
    assert exchange.result(TIMEOUT).ending is Ending.CANCELED


def test_without_a_node_a_leaf_fails_at_once(tree: SimpleNamespace) -> None:
    with InstructionClient(domain=free_domain()) as client:
        leaf = tree.Ask(client, lambda: "go", budget=60.0)
        assert leaf.tick() is tree.Status.FAILURE
        assert client.exchanges == {}


def test_the_page_s_script_prints_the_answer(
    stand_in: tuple[StandIn, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(stand_in[1]))
    exec(IN_A_SCRIPT, {})
    assert capsys.readouterr().out == "stop\n"


def test_the_page_s_node_hears_the_answer(
    stand_in: tuple[StandIn, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def spin(pilot: Node) -> None:
        """As rclpy does, until the coroutine has logged the answer."""
        (timer,) = pilot.timers
        timer.cancel()  # what it began while this waits would be dropped with the executor
        pilot.llm.wait_for_node(TIMEOUT)
        timer.reset()
        monkeypatch.setattr(pilot, "get_logger", lambda: SimpleNamespace(info=heard.append))
        assert pilot.llm.wait_until(lambda: heard != [], TIMEOUT)

    monkeypatch.setenv("ROS_DOMAIN_ID", str(stand_in[1]))
    monkeypatch.setattr(rclpy, "spin", spin)
    try:
        exec(IN_A_NODE, {"__name__": "pilot"})
    finally:
        rclpy.try_shutdown()
    assert heard == ["A pedestrian is 4 m ahead."]
