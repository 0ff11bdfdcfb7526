# SPDX-License-Identifier: Apache-2.0
"""Goals to a node in a process of its own: streaming, cancel, several clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from timebill_ros.action import Instruct
from timebill_ros.client.client import InstructionClient
from timebill_ros.client.exchange import Exchange
from timebill_ros.msg import Overrun, Response

from .subject import PATIENCE, Lookout, Subject, ask, endless_work, long_work

pytestmark = pytest.mark.e2e


@pytest.fixture
def goals(node: Subject) -> Iterator[InstructionClient]:
    """A client of a node that shows every token."""
    node.serve(partial_period=0.0)
    with InstructionClient(server=node.name, domain=node.domain) as goals:
        goals.wait_for_node(PATIENCE)
        yield goals


def answered(goal: Exchange) -> Response:
    assert isinstance(goal.terminal, Response)
    return goal.terminal


def overrun(goal: Exchange) -> Overrun:
    assert isinstance(goal.terminal, Overrun)
    return goal.terminal


def test_an_answer_streams_while_it_is_generated(goals: InstructionClient) -> None:
    seen: list[Instruct.Feedback] = []
    goal = goals.send(long_work("a"), on_feedback=seen.append)
    assert goals.wait_for(goal, timeout=PATIENCE)
    response = answered(goal)
    assert response.response_tokens > 100
    assert len(seen) > 1
    assert all(response.text.startswith(feedback.text) for feedback in seen)
    # Nothing is shown after the end.
    assert seen[-1].response_tokens < response.response_tokens


def test_a_running_goal_is_canceled_with_its_partial_text(goals: InstructionClient) -> None:
    goal = goals.send(endless_work("a"))
    assert goals.wait_until(lambda: goal.feedback is not None, PATIENCE)
    goal.cancel()
    assert goals.wait_for(goal, timeout=PATIENCE)
    canceled = overrun(goal)
    assert (canceled.reason, canceled.stage) == (Overrun.CANCELED, Overrun.DECODE)
    assert canceled.partial_text


def test_a_queued_goal_is_canceled_and_the_others_are_answered(
    node: Subject, goals: InstructionClient
) -> None:
    with Lookout(node) as lookout:
        first = goals.send(endless_work("first"))
        lookout.see(decoding="first")
        *others, last = (goals.send(ask(f"a{i}")) for i in range(9))
        last.cancel()
        assert goals.wait_for(last, timeout=PATIENCE)
        first.cancel()
        assert goals.wait_for(first, timeout=PATIENCE)
    assert (overrun(last).reason, overrun(last).stage) == (Overrun.CANCELED, Overrun.QUEUED)
    assert (overrun(first).reason, overrun(first).stage) == (Overrun.CANCELED, Overrun.DECODE)
    assert goals.wait_for(*others, timeout=PATIENCE)
    assert [answered(goal).id for goal in others] == [f"a{i}" for i in range(8)]


def test_two_clients_and_the_topic_are_served_side_by_side(
    node: Subject, goals: InstructionClient
) -> None:
    with InstructionClient(server=node.name, domain=node.domain) as others, node.client() as client:
        others.wait_for_node(PATIENCE)
        mine = [goals.send(ask(f"mine {i}")) for i in range(5)]
        theirs = [others.send(ask(f"theirs {i}")) for i in range(5)]
        exchange = client.send(ask("topic"))
        assert goals.wait_for(*mine, timeout=PATIENCE)
        assert others.wait_for(*theirs, timeout=PATIENCE)
        assert client.wait_for(exchange, timeout=PATIENCE)
        # The topics carry the goals' outcomes as well.
        assert client.wait_until(lambda: len(client.strays) >= 10, PATIENCE)
        heard = {stray.message.id for stray in client.strays}
    assert [answered(goal).id for goal in (*mine, *theirs)] == [
        *(f"mine {i}" for i in range(5)),
        *(f"theirs {i}" for i in range(5)),
    ]
    assert exchange.terminal is not None
    assert heard == {goal.instruction.id for goal in (*mine, *theirs)}
