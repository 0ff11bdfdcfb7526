# SPDX-License-Identifier: Apache-2.0
"""The client with goals, against a stand-in for the node, over real DDS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from test.client.goals import TIMEOUT, StandIn
from timebill_ros.client import Ending, InstructionClient, NodeAbsent
from timebill_ros.client.session import free_domain
from timebill_ros.msg import Instruction, Overrun, Response

pytestmark = pytest.mark.e2e


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def client(domain: int) -> Iterator[InstructionClient]:
    stand_in = StandIn(domain)
    with InstructionClient(domain=domain) as client:
        client.wait_for_node(TIMEOUT)
        yield client
    stand_in.close()


def test_feedback_and_answer_arrive(client: InstructionClient) -> None:
    seen: list[str] = []
    goal = client.ask("one two three", on_feedback=lambda f: seen.append(f.text))
    assert goal.terminal is None
    assert client.wait_for(goal, timeout=TIMEOUT)
    assert isinstance(goal.terminal, Response)
    assert goal.terminal.text == "one two three"
    # The result may overtake feedback, which rclpy then does not hand out any more.
    assert seen == ["one", "one two", "one two three"][: len(seen)]
    assert goal.feedback is not None
    assert goal.end is not None
    assert goal.end.arrived_ns > goal.sent_ns
    assert goal.result().text == "one two three"
    assert goal.result().ending is Ending.IN_TIME


def test_a_goal_without_an_answer_ends_with_its_overrun(client: InstructionClient) -> None:
    goal = client.send(Instruction(id="a", prompt=""))
    assert client.wait_for(goal, timeout=TIMEOUT)
    assert isinstance(goal.terminal, Overrun)
    assert (goal.terminal.id, goal.terminal.detail) == ("a", "prompt: it is empty")


def test_waiting_ends_without_a_result_and_a_cancel_brings_one(client: InstructionClient) -> None:
    waiting, other = (client.send(Instruction(prompt=text)) for text in ("wait", "go"))
    assert client.wait_for(other, timeout=TIMEOUT)
    assert not client.wait_for(waiting, timeout=0.2)
    with pytest.raises(TimeoutError, match=r"has not ended after 0.2 s"):
        waiting.result(0.2)
    waiting.cancel()
    assert waiting.result(TIMEOUT).ending is Ending.CANCELED
    assert isinstance(waiting.terminal, Overrun)
    assert waiting.terminal.reason == Overrun.CANCELED


def test_a_cancel_right_after_sending_waits_for_the_goal_to_be_accepted(
    client: InstructionClient,
) -> None:
    goal = client.send(Instruction(prompt="wait"))
    goal.cancel()
    assert goal.result(TIMEOUT).ending is Ending.CANCELED
    goal.cancel()  # it has ended: nothing is left to cancel


def test_callbacks_hear_of_the_end_once_whenever_they_are_added(
    client: InstructionClient,
) -> None:
    ended: list[str] = []
    goal = client.ask("go")
    goal.add_done_callback(lambda exchange: ended.append(exchange.instruction.prompt))
    assert ended == []
    goal.result(TIMEOUT)
    assert ended == ["go"]
    goal.add_done_callback(lambda _: ended.append("again"))
    assert ended == ["go", "again"]


def test_a_node_that_says_nothing_is_given_up_and_what_comes_later_changes_nothing(
    client: InstructionClient,
) -> None:
    goal = client.ask("so wait", budget=0.1, patience=0.1)
    assert goal.result(TIMEOUT).ending is Ending.MISSING
    # Giving up cancels, and the node's word for that comes after the end.
    assert client.wait_until(lambda: goal.arrivals != [], TIMEOUT)
    assert goal.arrivals[0].message.reason == Overrun.CANCELED
    assert client.wait_for_all(TIMEOUT)


def test_what_has_not_ended_ends_with_the_client(domain: int) -> None:
    with InstructionClient(domain=domain) as client:
        goal = client.ask("nobody is there")
    assert goal.result().ending is Ending.MISSING


def test_an_absent_node_is_named(domain: int) -> None:
    with (
        InstructionClient(server="/robot/llm", domain=domain) as client,
        pytest.raises(NodeAbsent, match=r"/robot/llm/input/instruction after 0.3 s"),
    ):
        client.wait_for_node(0.3)
