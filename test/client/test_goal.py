# SPDX-License-Identifier: Apache-2.0
"""The client of the action against a stand-in for the node, over real DDS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from test.client.goals import TIMEOUT, StandIn
from timebill_ros.client.client import NodeAbsent
from timebill_ros.client.goal import GoalClient
from timebill_ros.client.session import free_domain
from timebill_ros.msg import Instruction, Overrun, Response

pytestmark = pytest.mark.e2e


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def client(domain: int) -> Iterator[GoalClient]:
    stand_in = StandIn(domain)
    with GoalClient(domain=domain) as client:
        client.wait_for_node(TIMEOUT)
        yield client
    stand_in.close()


def test_feedback_and_answer_arrive(client: GoalClient) -> None:
    seen: list[str] = []
    goal = client.send(Instruction(prompt="one two three"), lambda f: seen.append(f.text))
    assert goal.terminal is None
    assert client.wait_for(goal, timeout=TIMEOUT)
    assert isinstance(goal.terminal, Response)
    assert goal.terminal.text == "one two three"
    # The result may overtake feedback, which rclpy then does not hand out any more.
    assert seen == ["one", "one two", "one two three"][: len(seen)]
    assert goal.feedback is not None
    assert goal.ended_ns > goal.sent_ns


def test_a_goal_without_an_answer_ends_with_its_overrun(client: GoalClient) -> None:
    goal = client.send(Instruction(id="a", prompt=""))
    assert client.wait_for(goal, timeout=TIMEOUT)
    assert isinstance(goal.terminal, Overrun)
    assert (goal.terminal.id, goal.terminal.detail) == ("a", "prompt: it is empty")


def test_waiting_ends_without_a_result_and_a_cancel_brings_one(client: GoalClient) -> None:
    waiting, other = (client.send(Instruction(prompt=text)) for text in ("wait", "go"))
    assert client.wait_for(other, timeout=TIMEOUT)
    assert not client.wait_for(waiting, timeout=0.2)
    assert client.cancel(waiting, TIMEOUT)
    assert isinstance(waiting.terminal, Overrun)
    assert waiting.terminal.reason == Overrun.CANCELED


def test_a_cancel_right_after_sending_waits_for_the_goal_to_be_accepted(
    client: GoalClient,
) -> None:
    goal = client.send(Instruction(prompt="wait"))
    assert client.cancel(goal, TIMEOUT)
    assert isinstance(goal.terminal, Overrun)


def test_an_absent_node_is_named(domain: int) -> None:
    with (
        GoalClient("/robot/llm", domain=domain) as client,
        pytest.raises(NodeAbsent, match=r"/robot/llm/input/instruction after 0.3 s"),
    ):
        client.wait_for_node(0.3)
