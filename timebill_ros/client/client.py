# SPDX-License-Identifier: Apache-2.0
"""A client of the node: sends instructions, collects what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from rclpy.event_handler import QoSSubscriptionMatchedInfo, SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy

from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Response

# Reliable as the node's own, and deep enough that nothing is lost between two waits.
_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)

# Both our publisher and our subscriptions are matched, but the node may learn of us a moment after
# we learn of it: what it published meanwhile would be lost, s.
SETTLING = 0.1


class NodeAbsent(RuntimeError):
    """No node takes instructions under that name."""

    @classmethod
    def after(cls, timeout: float, *, node: str, topic: str) -> Self:
        """Nobody subscribed to the topic within ``timeout`` s."""
        return cls(
            f"nothing takes instructions at {topic} after {timeout:g} s: is the node {node} "
            "configured, and on this ROS_DOMAIN_ID?"
        )


@dataclass(frozen=True)
class Arrival:
    """A message about an instruction, and the instant of ``time.monotonic_ns`` it was taken."""

    message: Response | Overrun
    arrived_ns: int

    @property
    def terminal(self) -> bool:
        """Whether nothing more is heard of the instruction."""
        return not (isinstance(self.message, Overrun) and self.message.reason == Overrun.LATE)


@dataclass
class Exchange:
    """One instruction and every message about it, in order of arrival."""

    instruction: Instruction
    sent_ns: int
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def terminal(self) -> Arrival | None:
        """The message that ended it; None while there is none."""
        return next((arrival for arrival in self.arrivals if arrival.terminal), None)


class InstructionClient:
    """Publishes instructions to one node and collects responses and overruns by id.

    Single-threaded: messages are taken, and their arrival is stamped, only inside the waits.

    Attributes:
        exchanges: what was sent, by id, in order.
        strays: messages whose id was never sent from here.
    """

    def __init__(
        self,
        node: str = "/llm",
        *,
        domain: int | None = None,
        on_arrival: Callable[[Exchange, Arrival], None] | None = None,
    ) -> None:
        """Connect to the topics of ``node``, on ``domain`` or the one of ROS_DOMAIN_ID.

        ``on_arrival`` is called with every message about an instruction that was sent from here.
        """
        self.exchanges: dict[str, Exchange] = {}
        self.strays: list[Arrival] = []
        self._node_name = node
        self._on_arrival = on_arrival
        self._session = Session("timebill_client", domain)
        ros = self._session.node
        self._publisher = ros.create_publisher(Instruction, f"{node}/input/instruction", _QOS)
        self._matched = {Response: 0, Overrun: 0}
        for kind, topic in ((Response, "response"), (Overrun, "overrun")):
            ros.create_subscription(
                kind,
                f"{node}/output/{topic}",
                self._receive,
                _QOS,
                event_callbacks=SubscriptionEventCallbacks(matched=self._count(kind)),
            )

    def wait_for_node(self, timeout: float = 10.0) -> None:
        """Wait until the node hears us and we hear it.

        Raises:
            NodeAbsent: that took longer than ``timeout`` s.
        """
        if not self._session.wait_for(self._node_name, lambda: self.connected, timeout):
            raise NodeAbsent.after(timeout, node=self._node_name, topic=self._publisher.topic_name)
        self.spin(SETTLING)

    @property
    def connected(self) -> bool:
        """Whether the node's end of every topic is there; as of the last wait."""
        return self._publisher.get_subscription_count() > 0 and all(self._matched.values())

    def send(self, instruction: Instruction) -> Exchange:
        """Publish an instruction, whose id must be new; a zero stamp becomes now.

        Raises:
            ValueError: the id is empty or was sent before, so that answers could not be told apart.
        """
        if not instruction.id or instruction.id in self.exchanges:
            raise ValueError(f"id {instruction.id!r} is empty or was sent before")
        stamp = instruction.header.stamp
        if stamp.sec == 0 and stamp.nanosec == 0:
            instruction.header.stamp = self._session.node.get_clock().now().to_msg()
        exchange = Exchange(instruction, time.monotonic_ns())
        self.exchanges[instruction.id] = exchange
        self._publisher.publish(instruction)
        return exchange

    def wait_for(self, ids: Iterable[str], timeout: float) -> bool:
        """Take messages until each of ``ids`` is ended; False after ``timeout`` s."""
        pending = list(ids)

        def all_ended() -> bool:
            while pending and self.exchanges[pending[-1]].terminal is not None:
                pending.pop()
            return not pending

        return self._session.spin_until(all_ended, timeout)

    def wait_for_all(self, timeout: float) -> bool:
        """Like ``wait_for``, for all that was sent."""
        return self.wait_for(self.exchanges, timeout)

    def spin(self, duration: float) -> None:
        """Take messages for ``duration`` s."""
        self._session.spin_until(lambda: False, duration)

    def close(self) -> None:
        """Leave the topics."""
        self._session.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the topics."""
        self.close()

    def _count(self, kind: type) -> Callable[[QoSSubscriptionMatchedInfo], None]:
        def matched(info: QoSSubscriptionMatchedInfo) -> None:
            self._matched[kind] = info.current_count

        return matched

    def _receive(self, message: Response | Overrun) -> None:
        arrival = Arrival(message, time.monotonic_ns())
        exchange = self.exchanges.get(message.id)
        if exchange is None:
            self.strays.append(arrival)
            return
        exchange.arrivals.append(arrival)
        if self._on_arrival is not None:
            self._on_arrival(exchange, arrival)
