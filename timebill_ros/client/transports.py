# SPDX-License-Identifier: Apache-2.0
"""The two ways to the node: as goals of its action, or by its topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import QoSSubscriptionMatchedInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future

import timebill_ros.msg as msg
from timebill_ros.action import Instruct

Receive = Callable[[msg.Response | msg.Overrun], None]
Watch = Callable[[str, Instruct.Feedback], None]
"""Called with the instruction's id, and how far its answer has grown."""

# Reliable as the node's own, and deep enough that nothing is lost between two waits.
_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


class NotCancelable(RuntimeError):
    """Only a goal can be canceled."""

    def __init__(self, id: str) -> None:
        """Name the instruction."""
        super().__init__(f"{id} was sent by topic, and only goals can be canceled")


class Transport(Protocol):
    """Carries instructions, which have an id each, and what is heard of them."""

    @property
    def connected(self) -> bool:
        """Whether the node is there, configured, and at every end; as of the last spinning."""

    def send(self, instruction: msg.Instruction) -> None:
        """Pass it on; returns at once."""

    def cancel(self, id: str) -> None:
        """Ask for its end; raises ``NotCancelable`` where that cannot be."""

    def give_up(self, id: str) -> None:
        """Nobody waits for it any more: cancel it where that can be, and forget it."""

    def destroy(self) -> None:
        """Leave the node."""


class Topics:
    """Publishes on ``~/input/instruction``; subscribes to responses and overruns of everybody."""

    def __init__(
        self, node: Node, server: str, receive: Receive, callback_group: CallbackGroup
    ) -> None:
        """Connect ``node`` to the topics of ``server``."""
        self._node = node
        self._publisher = node.create_publisher(
            msg.Instruction, f"{server}/input/instruction", _QOS
        )
        self._matched = {msg.Response: 0, msg.Overrun: 0}
        self._subscriptions = [
            node.create_subscription(
                kind,
                f"{server}/output/{topic}",
                receive,
                _QOS,
                callback_group=callback_group,
                event_callbacks=SubscriptionEventCallbacks(matched=self._count(kind)),
            )
            for kind, topic in ((msg.Response, "response"), (msg.Overrun, "overrun"))
        ]

    @property
    def connected(self) -> bool:
        """Whether the node subscribes, and publishes both outcomes."""
        return self._publisher.get_subscription_count() > 0 and all(self._matched.values())

    def send(self, instruction: msg.Instruction) -> None:
        """Publish it."""
        self._publisher.publish(instruction)

    def cancel(self, id: str) -> None:
        """Raise ``NotCancelable``."""
        raise NotCancelable(id)

    def give_up(self, id: str) -> None:
        """Do nothing."""

    def destroy(self) -> None:
        """Leave the topics."""
        self._node.destroy_publisher(self._publisher)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _count(self, kind: type) -> Callable[[QoSSubscriptionMatchedInfo], None]:
        def matched(info: QoSSubscriptionMatchedInfo) -> None:
            self._matched[kind] = info.current_count

        return matched


class Goals:
    """Sends goals of ``~/instruct``: only their sender hears of them, and can cancel them."""

    def __init__(
        self,
        node: Node,
        server: str,
        receive: Receive,
        watch: Watch,
        callback_group: CallbackGroup,
    ) -> None:
        """Connect ``node`` to the action of ``server``."""
        self._node = node
        self._receive = receive
        self._watch = watch
        self._topic = node.resolve_topic_name(f"{server}/input/instruction")
        self._action = ActionClient(
            node,
            Instruct,
            f"{server}/instruct",
            callback_group=callback_group,
            # By default ten answers are kept: of a burst's, those that come before we look.
            goal_service_qos_profile=_QOS,
            result_service_qos_profile=_QOS,
            cancel_service_qos_profile=_QOS,
        )
        # None until the node has taken the goal.
        self._handles: dict[str, ClientGoalHandle | None] = {}
        self._canceled: set[str] = set()  # before the node had taken them

    @property
    def connected(self) -> bool:
        """Whether the action is there, and the node configured."""
        # The action is there before the node is configured, the topic is not.
        configured = self._node.count_subscribers(self._topic) > 0
        return configured and bool(self._action.server_is_ready())

    def send(self, instruction: msg.Instruction) -> None:
        """Send it as a goal."""
        name = instruction.id
        self._handles[name] = None

        def take_feedback(message: Any) -> None:
            if name in self._handles:
                self._watch(name, message.feedback)

        def take_handle(sent: Future) -> None:
            handle = sent.result()
            if name not in self._handles:  # given up meanwhile; what comes is kept all the same
                if handle.accepted:
                    handle.get_result_async().add_done_callback(take_result)
                    handle.cancel_goal_async()
                return
            self._handles[name] = handle
            if not handle.accepted:  # this node accepts every goal; another server may not
                detail = "the action server did not accept the goal"
                self._end(msg.Overrun(id=name, reason=msg.Overrun.REJECTED, detail=detail))
                return
            handle.get_result_async().add_done_callback(take_result)
            if name in self._canceled:
                handle.cancel_goal_async()

        def take_result(done: Future) -> None:
            result = done.result().result
            answered = result.error_code == Instruct.Result.NONE
            outcome = result.response if answered else result.overrun
            # Where nobody kept the result, rclpy hands out an empty one.
            if outcome.id == name:
                self._end(outcome)

        request = Instruct.Goal(instruction=instruction)
        sent = self._action.send_goal_async(request, feedback_callback=take_feedback)
        sent.add_done_callback(take_handle)

    def cancel(self, id: str) -> None:
        """Ask for its end, now or as soon as the node has taken it."""
        if id not in self._handles:
            return
        self._canceled.add(id)
        if (handle := self._handles[id]) is not None:
            handle.cancel_goal_async()

    def give_up(self, id: str) -> None:
        """Cancel it, and forget it."""
        self.cancel(id)
        self._handles.pop(id, None)
        self._canceled.discard(id)

    def destroy(self) -> None:
        """Leave the action."""
        self._action.destroy()

    def _end(self, outcome: msg.Response | msg.Overrun) -> None:
        self._handles.pop(outcome.id, None)
        self._canceled.discard(outcome.id)
        self._receive(outcome)
