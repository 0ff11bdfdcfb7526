# SPDX-License-Identifier: Apache-2.0
"""The node under a /clock that runs four times as fast as the world, and is set back."""

from __future__ import annotations

import pytest

from timebill_ros.msg import Overrun, Response

from .simulator import Simulator
from .subject import (
    PATIENCE,
    Lookout,
    Subject,
    ask,
    duration,
    ended_by,
    endless_work,
    long_work,
)

pytestmark = pytest.mark.e2e
RATE = 4.0
MANY = 10


def test_plans_count_in_the_time_that_the_world_has(node: Subject) -> None:
    node.serve(use_sim_time=True)
    with Simulator(node.domain, RATE) as simulator, node.client() as client:
        # While it is answered, the node hears enough of the clock's messages to know its rate.
        unhurried = client.send(simulator.stamp(long_work("unhurried")))
        assert client.wait_for_all(PATIENCE)
        first = ended_by(unhurried)
        assert isinstance(first, Response)
        assert first.plan.alpha == 0.0
        # The worst case would fit this budget if simulated time passed as fast as the world's.
        tight = 1.6 * duration(first.plan.wcet)
        hurried = client.send(simulator.stamp(long_work("hurried", budget=tight)))
        assert client.wait_for_all(PATIENCE)
        second = ended_by(hurried)
    assert second.plan.alpha > 0.0 or not second.plan.planner
    stages = first.timing.prefill, first.timing.evict, first.timing.decode
    worked = sum(map(duration, stages))
    assert duration(first.timing.total) > 1.5 * worked


def test_a_jump_back_cancels_what_lies_in_the_future(node: Subject) -> None:
    node.serve(use_sim_time=True)
    with (
        Simulator(node.domain, RATE) as simulator,
        Lookout(node) as lookout,
        node.client() as client,
    ):
        sent = [client.send(simulator.stamp(endless_work(f"long{n}"))) for n in range(MANY)]
        lookout.see(decoding="long0", waiting=MANY - 1)
        simulator.forward(-500.0)
        assert client.wait_for_all(PATIENCE)
        for terminal in map(ended_by, sent):
            assert isinstance(terminal, Overrun)
            assert terminal.reason == Overrun.CANCELED
            assert terminal.detail.startswith("clock: jumped back by 4")
        again = client.send(simulator.stamp(ask("again")))
        assert client.wait_for_all(PATIENCE)
        assert isinstance(ended_by(again), Response)
