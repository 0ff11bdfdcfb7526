# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the node, on a thread of its own, that does what an instruction's prompt names."""

from __future__ import annotations

import threading
from typing import Self

from rclpy.parameter import Parameter

from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Plan, Response, Timing
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.runtime.clock import seconds

TIMEOUT = 120.0


class StandIn:
    """Answers at once: in time, or as the prompt says.

    Attributes:
        received: instructions and the ROS time, s, at which they came.
    """

    def __init__(self, domain: int, *, use_sim_time: bool = False) -> None:
        self.received: list[tuple[float, Instruction]] = []
        self._session = Session("llm", domain)
        self._node = node = self._session.node
        node.set_parameters([Parameter("use_sim_time", value=use_sim_time)])
        self._responses = node.create_publisher(Response, "~/output/response", 10)
        self._overruns = node.create_publisher(Overrun, "~/output/overrun", 10)
        node.create_subscription(Instruction, "~/input/instruction", self._answer, 10)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _answer(self, message: Instruction) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        self.received.append((seconds(now_ns), message))
        total = seconds(now_ns - nanoseconds(message.header.stamp))
        timing = Timing(
            total=duration_msg(total),
            slack=duration_msg(seconds(nanoseconds(message.budget)) - total),
        )
        response = Response(
            header=message.header,
            id=message.id,
            response_tokens=3,
            plan=Plan(planner="stand-in", prompt_tokens=7),
            timing=timing,
        )
        if message.prompt == "leave":
            self._ending.set()
        elif message.prompt == "kill":
            self._overruns.publish(Overrun(id=message.id, reason=Overrun.KILLED))
        elif message.prompt != "silence":
            self._responses.publish(response)
        if message.prompt == "twice":
            self._responses.publish(response)

    def _run(self) -> None:
        self._session.spin_until(self._ending.is_set, 600.0)
        self._session.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT)
