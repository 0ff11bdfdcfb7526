# SPDX-License-Identifier: Apache-2.0
"""A /clock for tests: it stands still, runs at any rate, and jumps when a test says so."""

from __future__ import annotations

import threading
import time
from typing import Self

from rosgraph_msgs.msg import Clock

from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction
from timebill_ros.node.conversions import time_msg
from timebill_ros.runtime.clock import NS_PER_S

from .subject import PATIENCE

_TICK = 0.01  # s


class Simulator:
    """Publishes /clock from a thread of its own, ``rate`` simulated seconds per real one.

    At a rate of 0 no deadline comes but by ``forward``: what a test waits for happens first,
    however slow the machine is.
    """

    def __init__(self, domain: int, rate: float = 0.0) -> None:
        self._rate = rate
        self._now_ns = 1000 * NS_PER_S
        self._jump_ns = 0
        self._session = Session("simulator", domain)
        self._clock = self._session.node.create_publisher(Clock, "/clock", 1)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def forward(self, by: float) -> None:
        """Jump ``by`` s, back where it is negative, with the next tick."""
        self._jump_ns = round(by * NS_PER_S)

    def stamp(self, instruction: Instruction) -> Instruction:
        """The instruction, released at what /clock showed last."""
        instruction.header.stamp = time_msg(self._now_ns)
        return instruction

    def _run(self) -> None:
        last_ns = time.monotonic_ns()
        while not self._ending.wait(_TICK):
            passed_ns, last_ns = time.monotonic_ns() - last_ns, time.monotonic_ns()
            jump_ns, self._jump_ns = self._jump_ns, 0
            self._now_ns += round(self._rate * passed_ns) + jump_ns
            self._clock.publish(Clock(clock=time_msg(self._now_ns)))

    def __enter__(self) -> Self:
        assert self._session.spin_until(lambda: self._clock.get_subscription_count() > 0, PATIENCE)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE)
        self._session.close()
