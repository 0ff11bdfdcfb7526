# SPDX-License-Identifier: Apache-2.0
"""The client of the language-model node: sends instructions, and tells what becomes of them."""

from __future__ import annotations

import inspect
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

import timebill_ros.msg as msg
from timebill_ros.action import Instruct
from timebill_ros.client.exchange import Arrival, Exchange
from timebill_ros.client.session import Session, spin_until
from timebill_ros.client.transports import Goals, Topics, Transport
from timebill_ros.node.conversions import duration_msg
from timebill_ros.runtime.settings import Settings

# Both our publisher and our subscriptions are matched, but the node may learn of us a moment after
# we learn of it: what it published meanwhile would be lost, s.
SETTLING = 0.1

# Ended exchanges and strays that are kept, so that one that is told of twice is noticed.
_KEPT = 1000
_POLL = 0.02  # s between two looks at something that no message tells


class NodeAbsent(RuntimeError):
    """No node takes instructions under that name."""

    @classmethod
    def after(cls, timeout: float, server: str) -> Self:
        """It did not come within ``timeout`` s."""
        return cls(
            f"nothing takes instructions at {server}/input/instruction after {timeout:g} s: is the "
            f"node {server} configured, and on this ROS_DOMAIN_ID?"
        )


class CallbackWaits(RuntimeError):
    """A callback waits for a message that only its own executor could hand out."""

    def __init__(self) -> None:
        """Say what to do instead."""
        super().__init__(
            "a callback that blocks its executor would wait forever for an answer that the same "
            "executor hands out: await the exchange, or use add_done_callback"
        )


class InstructionClient:
    """Sends instructions to one node, and follows them.

    On a node of the user's it adds entities to that node, whose executor then runs its callbacks;
    nothing here blocks but the waits. Without one it has a ROS context and a node of its own, and
    callbacks run inside the waits and nowhere else.

    Attributes:
        exchanges: what was sent, by id, in order: all that have not ended, the newest that have.
        strays: the newest messages whose id is none of these.
    """

    def __init__(
        self,
        node: Node | None = None,
        server: str = "/llm",
        *,
        by_topic: bool = False,
        domain: int | None = None,
        callback_group: CallbackGroup | None = None,
        on_arrival: Callable[[Exchange, Arrival], None] | None = None,
        ros_arguments: Sequence[str] = (),
    ) -> None:
        """Connect; the server may come later.

        Args:
            node: the user's; None makes one.
            server: name of the language-model node.
            by_topic: publish instructions, and hear everybody's outcomes, LATE too. By default they
                are goals of the node's action, which can be watched and canceled.
            domain: of the node that is made; the one of ROS_DOMAIN_ID where None.
            callback_group: of our callbacks; one of their own where None, since a coroutine that
                awaits an answer keeps its own group from being run.
            on_arrival: called with every message about an instruction that was sent from here.
            ros_arguments: of the node that is made, from --ros-args on: remaps, mostly.
        """
        self.exchanges: dict[str, Exchange] = {}
        self.strays: deque[Arrival] = deque(maxlen=_KEPT)
        self._ended: deque[str] = deque()
        self._server = server
        self._on_arrival = on_arrival
        self._watches: dict[str, Callable[[Instruct.Feedback], None]] = {}
        self._news = threading.Condition()
        self._session: Session | None = None
        if node is None:
            self._session = Session("timebill_client", domain, ros_arguments)
            node = self._session.node
        self._node = node
        self._callback_group = callback_group or MutuallyExclusiveCallbackGroup()
        self._transport: Transport = (
            Topics(node, server, self._receive, self._callback_group)
            if by_topic
            else Goals(node, server, self._receive, self._watch, self._callback_group)
        )
        self._by_topic = by_topic

    @property
    def connected(self) -> bool:
        """Whether the server is there and configured; as of the last message or wait."""
        return self._transport.connected

    def ask(
        self,
        prompt: str,
        *,
        budget: float = 0.0,
        system: str = "",
        max_tokens: int = 0,
        response_schema: str = "",
        on_feedback: Callable[[Instruct.Feedback], None] | None = None,
        patience: float = 10.0,
    ) -> Exchange:
        """Ask one thing, released now; returns at once. ``send`` takes all that a message can say.

        Args:
            prompt: the instruction.
            budget: s until the deadline; 0 is the server's default.
            system: system message.
            max_tokens: longest answer; 0 is the server's default.
            response_schema: JSON schema that the answer is held to.
            on_feedback: called as the answer grows.
            patience: s after the deadline in which the outcome must be heard. Then the exchange
                ends with ``Ending.MISSING``: the server is gone, or a late answer takes that long.
        """
        instruction = msg.Instruction(
            system=system,
            prompt=prompt,
            budget=duration_msg(budget),
            max_tokens=max_tokens,
            response_schema=response_schema,
        )
        longest = (budget or Settings().default_budget) + patience
        return self.send(instruction, on_feedback=on_feedback, give_up_after=longest)

    def send(
        self,
        instruction: msg.Instruction,
        *,
        on_feedback: Callable[[Instruct.Feedback], None] | None = None,
        give_up_after: float | None = None,
    ) -> Exchange:
        """Send a message as it is; returns at once. An empty id gets one, a zero stamp becomes now.

        Args:
            instruction: its id must be new.
            on_feedback: called as the answer grows.
            give_up_after: s of the node's clock until the exchange ends without an outcome; None
                waits forever.

        Raises:
            ValueError: the id was sent before, so that answers could not be told apart; or feedback
                is wanted by topic, which brings none.
        """
        if on_feedback is not None and self._by_topic:
            raise ValueError("on_feedback: only goals have feedback")
        instruction.id = name = instruction.id or str(uuid.uuid4())
        if name in self.exchanges:
            raise ValueError(f"id {name!r} was sent before")
        stamp = instruction.header.stamp
        if stamp.sec == 0 and stamp.nanosec == 0:
            instruction.header.stamp = self._node.get_clock().now().to_msg()
        exchange = Exchange(instruction, time.monotonic_ns(), self)
        self.exchanges[name] = exchange
        if on_feedback is not None:
            self._watches[name] = on_feedback
        exchange.add_done_callback(self._conclude)
        if give_up_after is not None:
            self._give_up_after(exchange, give_up_after)
        self._transport.send(instruction)
        return exchange

    def cancel(self, exchange: Exchange) -> None:
        """See ``Exchange.cancel``."""
        self._transport.cancel(exchange.instruction.id)

    def wait_for_node(self, timeout: float = 10.0) -> None:
        """Wait until the server hears us and we hear it.

        Raises:
            NodeAbsent: that took longer than ``timeout`` s.
            CallbackWaits: called inside a callback of the executor that spins the user's node.
        """
        if self._session is not None:
            there = self._session.wait_for(self._server, lambda: self.connected, timeout)
        else:
            there = self.wait_until(lambda: self.connected, timeout)
        if not there:
            raise NodeAbsent.after(timeout, self._server)
        self.spin(SETTLING)

    def wait_for(self, *exchanges: Exchange, timeout: float | None) -> bool:
        """Wait until all of them have ended; False after ``timeout`` s. None waits without end.

        Raises:
            CallbackWaits: called inside a callback of the executor that spins the user's node.
        """
        pending = list(exchanges)

        def all_ended() -> bool:
            while pending and pending[-1].done():
                pending.pop()
            return not pending

        return self.wait_until(all_ended, timeout)

    def wait_for_all(self, timeout: float | None) -> bool:
        """Like ``wait_for``, for all that was sent."""
        return self.wait_for(*self.exchanges.values(), timeout=timeout)

    def spin(self, duration: float) -> None:
        """Take messages for ``duration`` s."""
        self.wait_until(lambda: False, duration)

    def wait_until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Take messages until ``done()``; False after ``timeout`` s. None waits without end.

        Raises:
            CallbackWaits: called inside a callback of the executor that spins the user's node.
        """
        if done():
            return True
        if self._session is not None:
            return self._session.spin_until(done, timeout)
        executor = self._node.executor
        if executor is None:
            spinning = SingleThreadedExecutor(context=self._node.context)
            spinning.add_node(self._node)
            try:
                return spin_until(spinning, done, timeout)
            finally:
                spinning.remove_node(self._node)
                spinning.shutdown()
        if _runs_in(executor):
            raise CallbackWaits
        end = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while not done():
                left = _POLL if end is None else min(_POLL, end - time.monotonic())
                if left <= 0.0:
                    return False
                self._news.wait(left)
        return True

    def close(self) -> None:
        """Leave the server; the user's node stays. What has not ended ends without an outcome."""
        for exchange in list(self.exchanges.values()):
            exchange.finish()
        self._transport.destroy()
        if self._session is not None:
            self._session.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the server."""
        self.close()

    def _receive(self, message: msg.Response | msg.Overrun) -> None:
        arrival = Arrival(message, time.monotonic_ns())
        exchange = self.exchanges.get(message.id)
        if exchange is None:
            self.strays.append(arrival)
            return
        exchange.take(arrival)
        if self._on_arrival is not None:
            self._on_arrival(exchange, arrival)

    def _watch(self, name: str, feedback: Instruct.Feedback) -> None:
        if (exchange := self.exchanges.get(name)) is not None:
            exchange.feedback = feedback
        if (watch := self._watches.get(name)) is not None:
            watch(feedback)

    def _give_up_after(self, exchange: Exchange, duration: float) -> None:
        def give_up() -> None:
            self._transport.give_up(exchange.instruction.id)
            exchange.finish()

        timer = self._node.create_timer(duration, give_up, callback_group=self._callback_group)
        exchange.add_done_callback(lambda _: self._node.destroy_timer(timer))

    def _conclude(self, exchange: Exchange) -> None:
        """Forget the oldest that has ended, where there are many, and wake who waits."""
        name = exchange.instruction.id
        self._watches.pop(name, None)
        self._ended.append(name)
        if len(self._ended) > _KEPT:
            self.exchanges.pop(self._ended.popleft(), None)
        with self._news:
            self._news.notify_all()


def _runs_in(executor: Executor) -> bool:
    """Whether a method of the executor is among our callers: it runs us on its own thread.

    rclpy does not tell on which thread an executor spins. One of several threads has no method of
    the executor's below it, and may wait while another takes messages.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_locals.get("self") is executor:
            return True
        frame = frame.f_back
    return False
