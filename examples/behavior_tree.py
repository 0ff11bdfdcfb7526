# SPDX-License-Identifier: Apache-2.0
"""Asks the language model from a behaviour tree, and drives on with a safe default without it.

A tree's tick may not wait: it looks how far the answer is. One tick every 0.1 s here:

    ros2 run timebill_ros llm_node --autostart
    python3 $(ros2 pkg prefix --share timebill_ros)/examples/behavior_tree.py

The leaf has the three states and the halt that BehaviorTree.CPP and py_trees know, and needs
neither.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from timebill_ros.client import Ending, Exchange, InstructionClient, Record

SYSTEM = "You drive a delivery robot. Answer with one word: go, wait or detour."


class Status(Enum):
    """What a tick says of its part of the tree."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"


class Ask:
    """A leaf that succeeds with an answer in time, and fails with anything else.

    Attributes:
        record: what became of the last instruction; None before its end.
    """

    def __init__(self, client: InstructionClient, prompt: Callable[[], str], budget: float) -> None:
        """``prompt`` is called when the leaf begins; ``budget`` is in s."""
        self.record: Record | None = None
        self._client = client
        self._prompt = prompt
        self._budget = budget
        self._exchange: Exchange | None = None

    def tick(self) -> Status:
        """Send the instruction with the first tick; look for its end with the next ones."""
        if self._exchange is None:
            self.record = None
            if not self._client.connected:
                return Status.FAILURE
            self._exchange = self._client.ask(self._prompt(), system=SYSTEM, budget=self._budget)
        self.record = self._exchange.record()
        if self.record is None:
            return Status.RUNNING
        self._exchange = None
        return Status.SUCCESS if self.record.ending is Ending.IN_TIME else Status.FAILURE

    def halt(self) -> None:
        """The tree goes another way: the node need not answer any more."""
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None


class Fallback:
    """Ticks the leaf; where it fails, the default counts."""

    def __init__(self, leaf: Ask, default: str) -> None:
        """``default`` is the decision without an answer."""
        self._leaf = leaf
        self._default = default

    def tick(self) -> str | None:
        """The decision; None while there is none."""
        status = self._leaf.tick()
        if status is Status.RUNNING:
            return None
        record = self._leaf.record
        return record.text if status is Status.SUCCESS and record else self._default


class Robot(Node):
    """Ticks the tree on a timer. The node's one executor also carries the client's messages."""

    def __init__(self) -> None:
        """Connect to the node /llm."""
        super().__init__("behavior_tree")
        client = InstructionClient(self)
        leaf = Ask(client, lambda: "A pedestrian is 4 m ahead and walks away.", budget=0.8)
        self._tree = Fallback(leaf, default="wait")
        self.create_timer(0.1, self._tick)

    def _tick(self) -> None:
        if (decision := self._tree.tick()) is not None:
            self.get_logger().info(f"decision: {decision}")


def main() -> None:
    """Tick until interrupted."""
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Robot())


if __name__ == "__main__":
    main()
