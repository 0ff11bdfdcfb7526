# SPDX-License-Identifier: Apache-2.0
"""Goals inside this process: their one result, whatever becomes of goal, client and node."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import KeyValue
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.parameter import Parameter
from rclpy.task import Future
from unique_identifier_msgs.msg import UUID

from timebill_ros.action import Instruct
from timebill_ros.msg import ChatMessage, Instruction, Overrun, Partial
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.runtime.health import QUEUE_DEPTH
from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, pose

from .bench import AMPLE, HELD, SUCCESS, Bench, Hold

SUCCEEDED, CANCELED, ABORTED = (
    GoalStatus.STATUS_SUCCEEDED,
    GoalStatus.STATUS_CANCELED,
    GoalStatus.STATUS_ABORTED,
)


@dataclass
class Goal:
    """What the client knows of a goal."""

    handle: ClientGoalHandle | None = None
    feedback: list[Instruct.Feedback] = field(default_factory=list)
    status: int | None = None
    result: Instruct.Result | None = None
    results: int = 0


class Client:
    """An action client on the bench's own node."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._client = ActionClient(bench.client, Instruct, "/llm/instruct")

    def send(self, id: str = "", prompt: str = "stop", **fields: object) -> Goal:
        """Send a goal and wait until it is accepted."""
        self.bench.until(self._client.server_is_ready)
        fields = {"budget": duration_msg(AMPLE), **fields}
        instruction = Instruction(id=id, prompt=prompt, **fields)
        goal = Goal()
        sent = self._client.send_goal_async(
            Instruct.Goal(instruction=instruction),
            feedback_callback=lambda message: goal.feedback.append(message.feedback),
            goal_uuid=UUID(uuid=list(uuid.uuid4().bytes)),
        )
        self.bench.until(sent.done)
        follow(goal, sent)
        return goal

    def send_all(self, number: int) -> list[Goal]:
        """Send goals at once, before the node can come to any."""
        self.bench.until(self._client.server_is_ready)
        goals = [Goal() for _ in range(number)]
        for index, goal in enumerate(goals):
            instruction = Instruction(id=f"j{index}", prompt="stop", budget=duration_msg(AMPLE))
            sent = self._client.send_goal_async(Instruct.Goal(instruction=instruction))
            sent.add_done_callback(functools.partial(follow, goal))
        return goals

    def cancel(self, goal: Goal) -> bool:
        """Ask for a cancel; whether the server agreed."""
        answered = goal.handle.cancel_goal_async()
        self.bench.until(answered.done)
        return len(answered.result().goals_canceling) == 1

    def ended(self, *goals: Goal) -> None:
        """Wait for the results."""
        self.bench.until(lambda: all(goal.result is not None for goal in goals))

    def close(self) -> None:
        self._client.destroy()


def follow(goal: Goal, sent: Future) -> None:
    goal.handle = sent.result()
    assert goal.handle.accepted
    goal.handle.get_result_async().add_done_callback(lambda done: keep(goal, done.result()))


def keep(goal: Goal, response: object) -> None:
    goal.status, goal.result, goal.results = response.status, response.result, goal.results + 1


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    client = Client(bench)
    yield client
    client.close()


def report() -> dict[str, str]:
    """An instruction whose answer is long against ``HELD``."""
    rng = np.random.default_rng(7)
    scene = sample_scene(rng, 500)
    prompt, _ = pose(rng, Family.REPORT, scene, names=8)
    return {"system": scene.text, "prompt": prompt}


def test_a_goal_is_answered_and_its_outcome_is_on_the_topic_too(
    bench: Bench, client: Client
) -> None:
    bench.active()
    goal = client.send("a")
    client.ended(goal)
    assert (goal.status, goal.result.error_code) == (SUCCEEDED, Instruct.Result.NONE)
    assert goal.result.response.text
    assert goal.result.response.plan.planner == "expected"
    bench.until(lambda: bench.terminal() == ["a"])
    assert bench.responses == [goal.result.response]
    assert goal.results == 1


def test_feedback_grows_into_the_answer(bench: Bench, client: Client) -> None:
    bench.active(partial_period=0.0)
    goal = client.send("a", **report())
    client.ended(goal)
    text = goal.result.response.text
    assert goal.feedback
    assert all(text.startswith(feedback.text) for feedback in goal.feedback)
    tokens = [feedback.response_tokens for feedback in goal.feedback]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] < goal.result.response.response_tokens
    assert all(0 < nanoseconds(feedback.slack) < AMPLE * 1e9 for feedback in goal.feedback)


def test_a_running_goal_stops_within_one_step_and_keeps_its_partial_text(
    bench: Bench, client: Client
) -> None:
    bench.active()
    hold = Hold(bench)
    goal = client.send("a", **report())
    bench.until(lambda: hold.steps == HELD)
    assert client.cancel(goal)
    hold.let_go()
    client.ended(goal)
    assert (goal.status, goal.result.error_code) == (CANCELED, Instruct.Result.CANCELED)
    assert goal.result.error_msg == "the client canceled the goal"
    overrun = goal.result.overrun
    assert (overrun.stage, overrun.response_tokens) == (Overrun.DECODE, HELD + 1)
    assert overrun.partial_text
    bench.until(lambda: bench.terminal() == ["a"])
    assert hold.steps == HELD


def test_a_queued_goal_is_gone_at_once(bench: Bench, client: Client) -> None:
    bench.active()
    hold = Hold(bench)
    running = client.send("runs", **report())
    bench.until(lambda: hold.steps == HELD)
    queued = client.send("waits")
    assert client.cancel(queued)
    client.ended(queued)
    assert (queued.status, queued.result.overrun.stage) == (CANCELED, Overrun.QUEUED)
    assert running.result is None
    hold.let_go()
    client.ended(running)
    assert running.status == SUCCEEDED


def test_a_goal_that_has_ended_cannot_be_canceled(bench: Bench, client: Client) -> None:
    bench.active()
    goal = client.send("a")
    client.ended(goal)
    assert not client.cancel(goal)
    assert (goal.status, goal.results) == (SUCCEEDED, 1)


def test_a_goal_without_an_id_is_named_by_its_own(bench: Bench, client: Client) -> None:
    bench.active()
    goal = client.send()
    client.ended(goal)
    assert goal.result.response.id == str(uuid.UUID(bytes=bytes(goal.handle.goal_id.uuid)))


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"prompt": ""}, "prompt: it is empty"),
        ({"budget": duration_msg(-1.0)}, "budget: -1.000 s is negative"),
        ({"messages": [ChatMessage(role="judge", content="so")]}, "messages[0].role: 'judge' is"),
        ({"messages": [ChatMessage(role="user", content="so")] * 1001}, "messages: 1001 turns"),
        ({"prompt": "x" * 2**22}, "prompt: an instruction of 41943"),
        ({"max_tokens": 2**32 - 1}, "max_tokens: "),
        ({"temperature": [11.0]}, "temperature: 11 is not from 0 to 10"),
        ({"top_p": [0.0]}, "top_p: 0 is not above 0"),
        ({"seed": [2**31]}, "seed: 2147483648 is not"),
        ({"stop": ["x" * 257]}, "stop[0]: 257 characters"),
    ],
)
def test_a_malformed_goal_is_aborted_and_says_why(
    bench: Bench, client: Client, fields: dict, detail: str
) -> None:
    bench.active()
    goal = client.send("a", **fields)
    client.ended(goal)
    assert (goal.status, goal.result.error_code) == (ABORTED, Instruct.Result.REJECTED)
    assert goal.result.error_msg.startswith(detail)
    assert goal.result.overrun.reason == Overrun.REJECTED
    bench.until(lambda: bench.terminal() == ["a"])


def test_earlier_turns_are_part_of_the_prompt(bench: Bench, client: Client) -> None:
    bench.active()
    alone = client.send("alone")
    turns = [ChatMessage(role="user", content="stop"), ChatMessage(role="assistant", content="go")]
    after = client.send("after", messages=turns)
    client.ended(alone, after)
    lengths = [goal.result.response.plan.prompt_tokens for goal in (alone, after)]
    assert lengths[1] >= lengths[0] + 2 * len(turns)


def test_of_a_burst_of_goals_each_is_answered(bench: Bench, client: Client) -> None:
    bench.active(queue_capacity=4)
    goals = client.send_all(50)
    client.ended(*goals)
    assert [goal.results for goal in goals] == [1] * 50
    bench.until(lambda: len(bench.terminal()) == 50)


def test_goals_and_topic_share_names_and_queue(bench: Bench, client: Client) -> None:
    bench.active(queue_capacity=1)
    hold = Hold(bench)
    running = client.send("a", **report())
    bench.until(lambda: hold.steps == HELD)
    again = client.send("a")
    client.ended(again)
    assert again.result.error_msg == "id: 'a' is already in flight"
    sent = bench.client.get_clock().now()
    bench.send("b")
    full = KeyValue(key=QUEUE_DEPTH, value="1")
    bench.until(lambda: full in bench.said("queue", sent).values)
    third = client.send("c")
    client.ended(third)
    assert third.result.error_msg == "queue: full with 1 instructions"
    hold.let_go()
    client.ended(running)
    bench.until(lambda: sorted(bench.terminal()) == ["a", "a", "b", "c"])


@pytest.mark.parametrize(
    ("steps", "detail"),
    [
        ([], "the node is not configured"),
        (["configure"], "the node is inactive"),
        (["configure", "activate", "deactivate", "cleanup"], "the node is not configured"),
    ],
)
def test_a_goal_to_a_node_that_is_not_active_is_aborted(
    bench: Bench, client: Client, steps: list[str], detail: str
) -> None:
    node = bench.node()
    for step in steps:
        assert getattr(node, f"trigger_{step}")() == SUCCESS
    goal = client.send("early")
    client.ended(goal)
    assert (goal.status, goal.result.error_code) == (ABORTED, Instruct.Result.REJECTED)
    assert goal.result.error_msg == detail
    assert goal.result.overrun.id == "early"


@pytest.mark.parametrize("steps", [["deactivate"], ["deactivate", "cleanup"], ["shutdown"]])
def test_goals_in_flight_get_their_result_when_the_node_stops(
    bench: Bench, client: Client, steps: list[str]
) -> None:
    node = bench.active()
    hold = Hold(bench)
    goals = [client.send("runs", **report()), client.send("waits"), client.send("waits too")]
    bench.until(lambda: hold.steps == HELD)
    hold.let_go_once_canceled()
    for step in steps:
        assert getattr(node, f"trigger_{step}")() == SUCCESS
    client.ended(*goals)
    assert {goal.status for goal in goals} == {ABORTED}
    assert {goal.result.error_code for goal in goals} == {Instruct.Result.CANCELED}
    assert {goal.result.error_msg for goal in goals} == {"the node is inactive"}
    assert [goal.results for goal in goals] == [1, 1, 1]
    assert node.goals_pending == 0


def test_a_missed_deadline_is_an_error_of_its_own(bench: Bench, client: Client) -> None:
    bench.active(use_sim_time=True)
    bench.show(clock=100.0)
    hold = Hold(bench)
    goal = client.send("a", **{**report(), "budget": duration_msg(4.0)})
    bench.until(lambda: hold.steps == HELD)
    bench.show(clock=104.5)
    hold.let_go()
    client.ended(goal)
    assert (goal.status, goal.result.error_code) == (ABORTED, Instruct.Result.KILLED)
    assert goal.result.overrun.partial_text


def test_partial_responses_are_published_once_they_are_switched_on(bench: Bench) -> None:
    partials: list[Partial] = []
    bench.client.create_subscription(Partial, "/llm/output/partial", partials.append, 1000)
    node = bench.active(partial_period=0.0)
    bench.until(lambda: node.count_subscribers("/llm/output/partial") == 1)
    bench.send("quiet", **report())
    bench.until(lambda: bench.terminal() == ["quiet"])
    assert partials == []
    node.set_parameters([Parameter("publish_partial", value=True)])
    bench.send("shown", **report())
    bench.until(lambda: len(bench.terminal()) == 2 and len(partials) > HELD)
    assert {partial.id for partial in partials} == {"shown"}
    assert partials[0].header == bench.responses[1].header
    assert all(bench.responses[1].text.startswith(partial.text) for partial in partials)
