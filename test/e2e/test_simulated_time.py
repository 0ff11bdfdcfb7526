# SPDX-License-Identifier: Apache-2.0
"""The node under a /clock that runs twice as fast as the world, and is set back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from rosgraph_msgs.msg import Clock

from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import time_msg
from timebill_ros.runtime.clock import NS_PER_S

from .subject import PATIENCE, Subject, ask, duration, ended_by, long_work

pytestmark = pytest.mark.e2e
RATE = 2.0
_TICK = 0.01  # s
MANY = 10  # more than are answered in a moment


class Simulator:
    """Publishes /clock from a thread of its own, at twice the pace of the world."""

    def __init__(self, domain: int) -> None:
        self._now_ns = 1000 * NS_PER_S
        self._back_ns = 0
        self._session = Session("simulator", domain)
        self._clock = self._session.node.create_publisher(Clock, "/clock", 1)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def now_ns(self) -> int:
        """What /clock showed last."""
        return self._now_ns

    def set_back(self, by: float) -> None:
        self._back_ns = round(by * NS_PER_S)

    def _run(self) -> None:
        last_ns = time.monotonic_ns()
        while not self._ending.wait(_TICK):
            passed_ns, last_ns = time.monotonic_ns() - last_ns, time.monotonic_ns()
            back_ns, self._back_ns = self._back_ns, 0
            self._now_ns += round(RATE * passed_ns) - back_ns
            self._clock.publish(Clock(clock=time_msg(self._now_ns)))

    def start(self) -> None:
        assert self._session.spin_until(lambda: self._clock.get_subscription_count() > 0, PATIENCE)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(PATIENCE)
        self._session.close()


@pytest.fixture
def simulator(node: Subject) -> Iterator[Simulator]:
    node.serve(use_sim_time=True)
    simulator = Simulator(node.domain)
    simulator.start()
    yield simulator
    simulator.stop()


def stamped(instruction: Instruction, simulator: Simulator) -> Instruction:
    instruction.header.stamp = time_msg(simulator.now_ns)
    return instruction


def test_plans_count_in_the_time_that_the_world_has(node: Subject, simulator: Simulator) -> None:
    with node.client() as client:
        # The node needs some of the clock's messages to know its rate.
        client.spin(1.0)
        unhurried = client.send(stamped(long_work("unhurried", budget=120.0), simulator))
        assert client.wait_for_all(PATIENCE)
        first = ended_by(unhurried)
        assert isinstance(first, Response)
        assert first.plan.alpha == 0.0
        # The worst case would fit this budget if simulated time passed as fast as the world's.
        tight = 1.6 * duration(first.plan.wcet)
        hurried = client.send(stamped(long_work("hurried", budget=tight), simulator))
        assert client.wait_for_all(PATIENCE)
        second = ended_by(hurried)
    assert second.plan.alpha > 0.0 or not second.plan.planner
    stages = first.timing.prefill, first.timing.evict, first.timing.decode
    worked = sum(map(duration, stages))
    assert duration(first.timing.total) > 1.5 * worked


def test_a_jump_back_cancels_what_lies_in_the_future(node: Subject, simulator: Simulator) -> None:
    with node.client() as client:
        client.spin(0.5)
        sent = [
            client.send(stamped(long_work(f"long{number}", budget=120.0), simulator))
            for number in range(MANY)
        ]
        client.spin(0.3)  # they must have arrived before time is set back
        simulator.set_back(500.0)
        assert client.wait_for_all(PATIENCE)
        canceled = [m for m in map(ended_by, sent) if isinstance(m, Overrun)]
        assert canceled
        for terminal in canceled:
            assert terminal.reason == Overrun.CANCELED
            assert terminal.detail.startswith("clock: jumped back by 4")
        again = client.send(stamped(ask("again", budget=60.0), simulator))
        assert client.wait_for_all(PATIENCE)
        assert isinstance(ended_by(again), Response)
