# SPDX-License-Identifier: Apache-2.0
"""A node in this process, and a client that keeps what it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Task
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64

from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import duration_msg
from timebill_ros.node.guard import GuardedExecutor
from timebill_ros.node.llm_node import LlmNode
from timebill_ros.node.topics import DEBUG_TOPICS, OUTCOME_QOS
from timebill_ros.runtime.server import Server

PATIENCE = 120.0
AMPLE = 600.0  # s; a budget that no machine exceeds
# Tokens after which a held engine waits: enough to have been seen decoding.
HELD = 3
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Bench:
    """A node under test and a client, on one executor that the test spins."""

    def __init__(self, context: Context, profile_cache: Path) -> None:
        self._context = context
        self._profile_cache = profile_cache
        self._executor = GuardedExecutor(context=context)
        self.client = Node("client", context=context)
        self._executor.add_node(self.client)
        self.responses: list[Response] = []
        self.overruns: list[Overrun] = []
        self.diagnostics: list[DiagnosticArray] = []
        for message, topic, kept in (
            (Response, "/llm/output/response", self.responses),
            (Overrun, "/llm/output/overrun", self.overruns),
            (DiagnosticArray, "/diagnostics", self.diagnostics),
        ):
            self.client.create_subscription(message, topic, kept.append, OUTCOME_QOS)
        self.debug: dict[str, list[float]] = {name: [] for name in DEBUG_TOPICS}
        for name, numbers in self.debug.items():
            self.client.create_subscription(
                Float64, f"/llm/debug/{name}", lambda m, kept=numbers: kept.append(m.data), 10
            )
        self._instructions = self.client.create_publisher(
            Instruction, "/llm/input/instruction", OUTCOME_QOS
        )
        self.nodes: list[LlmNode] = []
        # What a test puts in the place of something, until the bench is closed.
        self.stand_ins = pytest.MonkeyPatch()

    def node(self, namespace: str = "/", **overrides: object) -> LlmNode:
        """An unconfigured node with quick settings."""
        settings = {
            "profile_cache": str(self._profile_cache),
            "profile_seconds": 5.0,
            "max_context": 1024,
            "threads": 1,
            "diagnostics_period": 0.1,
            "predictor_grace": 60.0,  # a prediction that no machine is too slow for
            **overrides,
        }
        given = [Parameter(name, value=value) for name, value in settings.items()]
        placed = ["--ros-args", "-r", f"__ns:={namespace}"]
        node = LlmNode(context=self._context, cli_args=placed, parameter_overrides=given)
        self._executor.add_node(node)
        self.nodes.append(node)
        return node

    def active(self, **overrides: object) -> LlmNode:
        node = self.node(**overrides)
        assert node.trigger_configure() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        self.connect()
        return node

    def connect(self) -> None:
        """Wait until the client sees the configured node's topics."""
        self.until(
            lambda: (
                self._instructions.get_subscription_count() == 1
                and self.client.count_publishers("/llm/output/response") == 1
                and self.client.count_publishers("/llm/output/overrun") == 1
            )
        )

    def send(self, id: str, prompt: str = "stop", budget: float = AMPLE, **fields: object) -> None:
        message = Instruction(id=id, prompt=prompt, budget=duration_msg(budget), **fields)
        message.header.stamp = self.client.get_clock().now().to_msg()
        self._instructions.publish(message)

    def show(self, clock: float) -> None:
        """Have the node, which uses simulated time, see this instant, s."""
        publisher = self.client.create_publisher(Clock, "/clock", 1)
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(round(clock * 1e9), 10**9)

        def seen() -> bool:
            publisher.publish(message)
            return self.nodes[0].get_clock().now().nanoseconds == round(clock * 1e9)

        self.until(seen)
        self.client.destroy_publisher(publisher)

    def send_raw(self, serialized: bytes) -> None:
        """Send an instruction of these bytes."""
        self._instructions.publish(serialized)

    def spinning(self, work: Coroutine[Any, Any, Any]) -> Task:
        """The work, done while the bench waits for something."""
        return self._executor.create_task(work)

    def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self._executor.spin_once(timeout_sec=0.02)

    def said(self, subject: str, since: Time | None = None) -> DiagnosticStatus:
        """The last diagnostics on a subject, made after ``since``; unset before the first."""
        made = [a for a in self.diagnostics if not since or Time.from_msg(a.header.stamp) > since]
        said = [s for a in made for s in a.status if s.name == f"llm: {subject}"]
        return said[-1] if said else DiagnosticStatus(level=DiagnosticStatus.STALE)

    def terminal(self) -> list[str]:
        ended = [r.id for r in self.responses]
        return ended + [o.id for o in self.overruns if o.reason != Overrun.LATE]

    def close(self) -> None:
        self.stand_ins.undo()
        for node in self.nodes:
            node.destroy_node()
        self.client.destroy_node()
        self._executor.shutdown()


class Hold:
    """Keeps engines from decoding beyond ``HELD`` tokens from now on, until they are let go."""

    def __init__(self, bench: Bench, patience: float = PATIENCE) -> None:
        self.steps = 0
        self._bench = bench
        self._let_go = threading.Event()
        step = TransformerEngine.step

        def held_step(engine: TransformerEngine) -> None:
            self.steps += 1
            if self.steps >= HELD:
                assert self._let_go.wait(patience)
            step(engine)

        bench.stand_ins.setattr(TransformerEngine, "step", held_step)

    def let_go(self) -> None:
        self._let_go.set()

    def let_go_once_canceled(self) -> None:
        """Go on as soon as the server was closed: what runs has been told to stop by then."""
        close = Server.close

        def close_and_let_go(server: Server, detail: str) -> None:
            close(server, detail)
            self._let_go.set()

        self._bench.stand_ins.setattr(Server, "close", close_and_let_go)
