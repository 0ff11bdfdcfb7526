# SPDX-License-Identifier: Apache-2.0
"""A client of the node's action: sends instructions as goals, watches and cancels them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.task import Future

from timebill_ros.action import Instruct
from timebill_ros.client.client import SETTLING, NodeAbsent
from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Response

Watch = Callable[[Instruct.Feedback], None]


@dataclass
class Goal:
    """One instruction as a goal, and what has become of it.

    Attributes:
        sent_ns: instant of ``time.monotonic_ns``.
        handle: None until the node has accepted it, which it always does.
        feedback: the last one; None before the first.
        result: None until it has ended.
        ended_ns: instant of ``time.monotonic_ns`` at which the result was taken.
    """

    instruction: Instruction
    sent_ns: int
    handle: ClientGoalHandle | None = None
    feedback: Instruct.Feedback | None = None
    result: Instruct.Result | None = None
    ended_ns: int = 0

    @property
    def terminal(self) -> Response | Overrun | None:
        """The message that ended it; None while there is none."""
        if self.result is None:
            return None
        answered = self.result.error_code == Instruct.Result.NONE
        return self.result.response if answered else self.result.overrun


class GoalClient:
    """Sends goals to one node, and follows them.

    Single-threaded: callbacks run only inside the waits.
    """

    def __init__(self, node: str = "/llm", *, domain: int | None = None) -> None:
        """Connect to the action of ``node``, on ``domain`` or the one of ROS_DOMAIN_ID."""
        self._node_name = node
        self._session = Session("timebill_goals", domain)
        self._action = ActionClient(self._session.node, Instruct, f"{node}/instruct")

    def wait_for_node(self, timeout: float = 10.0) -> None:
        """Wait until the node is there and configured.

        Raises:
            NodeAbsent: that took longer than ``timeout`` s.
        """
        topic = f"{self._node_name}/input/instruction"

        def ready() -> bool:
            # The action is there before the node is configured, the topic is not.
            configured = self._session.node.count_subscribers(topic) > 0
            return configured and bool(self._action.server_is_ready())

        if not self._session.wait_for(self._node_name, ready, timeout):
            raise NodeAbsent.after(timeout, node=self._node_name, topic=topic)
        self._session.spin_until(lambda: False, SETTLING)

    def send(self, instruction: Instruction, watch: Watch | None = None) -> Goal:
        """Send an instruction as a goal; ``watch`` is called with every feedback."""
        goal = Goal(instruction, time.monotonic_ns())

        def take_feedback(message: Any) -> None:
            goal.feedback = message.feedback
            if watch is not None:
                watch(message.feedback)

        def take_handle(sent: Future) -> None:
            goal.handle = sent.result()
            goal.handle.get_result_async().add_done_callback(take_result)

        def take_result(done: Future) -> None:
            goal.result, goal.ended_ns = done.result().result, time.monotonic_ns()

        request = Instruct.Goal(instruction=instruction)
        sent = self._action.send_goal_async(request, feedback_callback=take_feedback)
        sent.add_done_callback(take_handle)
        return goal

    def wait_for(self, *goals: Goal, timeout: float) -> bool:
        """Handle messages until the goals have ended; False after ``timeout`` s."""
        return self.spin_until(lambda: all(goal.result is not None for goal in goals), timeout)

    def spin_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Handle messages until ``done()``; False after ``timeout`` s."""
        return self._session.spin_until(done, timeout)

    def cancel(self, goal: Goal, timeout: float) -> bool:
        """Ask the node to cancel; False where it has not ended after ``timeout`` s.

        Its result says whether the cancel came before its own end.
        """
        end = time.monotonic() + timeout
        if self.spin_until(lambda: goal.handle is not None, timeout) and goal.handle is not None:
            goal.handle.cancel_goal_async()
        return self.wait_for(goal, timeout=end - time.monotonic())

    def close(self) -> None:
        """Leave the action."""
        self._action.destroy()
        self._session.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the action."""
        self.close()
