# SPDX-License-Identifier: Apache-2.0
"""The node in its own process: driven by its lifecycle services, answering over DDS."""

from __future__ import annotations

import pytest

from timebill_ros.msg import Overrun, Response

from .simulator import Simulator
from .subject import (
    AMPLE,
    PATIENCE,
    Lookout,
    Subject,
    ask,
    duration,
    ended_by,
    endless_work,
    long_answer,
    overruns,
    settle,
)

pytestmark = pytest.mark.e2e


def test_an_instruction_goes_in_and_its_response_comes_out(node: Subject) -> None:
    assert node.state() == "unconfigured"
    node.configure(PATIENCE)
    assert node.state() == "inactive"
    node.activate()
    assert node.state() == "active"
    with node.client() as client:
        exchange = client.send(ask("a"))
        assert client.wait_for_all(PATIENCE)
    response = ended_by(exchange)
    assert isinstance(response, Response)
    assert response.text
    assert not response.late
    assert response.header.stamp == exchange.instruction.header.stamp
    assert response.plan.feasible
    assert 0.0 < duration(response.timing.total) <= AMPLE - duration(response.timing.slack) + 1e-6


def test_kill_stops_at_the_deadline_and_announces_it(node: Subject) -> None:
    """The clock stands still until each instruction is in the stage that it is to be stopped in."""
    # A chunk is one token, so that a prompt of thousands takes seconds.
    node.serve(planner="vanilla", use_sim_time=True, chunk=1, window=1)
    with Simulator(node.domain) as simulator, Lookout(node) as lookout, node.client() as client:
        decoding = client.send(simulator.stamp(endless_work("decoding", budget=10.0)))
        lookout.see(decoding="decoding")
        prefilling = client.send(simulator.stamp(ask("prefilling", "stop " * 7000, budget=100.0)))
        lookout.see(waiting=1)
        simulator.forward(15.0)
        assert client.wait_for(decoding, timeout=PATIENCE)
        lookout.see(waiting=0)
        simulator.forward(90.0)
        assert client.wait_for_all(PATIENCE)
        settle(client)
    for killed, stage in ((decoding, Overrun.DECODE), (prefilling, Overrun.PREFILL)):
        message = ended_by(killed)
        assert overruns(killed) == [Overrun.KILLED]
        assert message.stage == stage
        assert -6.0 < duration(message.timing.slack) <= -5.0
        begun = stage == Overrun.DECODE
        assert (message.response_tokens > 0) == bool(message.partial_text) == begun


def test_skip_next_lets_the_late_one_run_on_and_skips_those_behind(node: Subject) -> None:
    node.serve(overrun_policy="skip_next", planner="vanilla", use_sim_time=True)
    with Simulator(node.domain) as simulator, Lookout(node) as lookout, node.client() as client:
        late = client.send(simulator.stamp(long_answer("late", budget=10.0)))
        lookout.see(decoding="late")
        behind = [client.send(simulator.stamp(ask(f"behind {number}"))) for number in range(3)]
        lookout.see(waiting=3)
        simulator.forward(15.0)
        assert client.wait_for_all(PATIENCE)
        after = client.send(simulator.stamp(ask("after")))
        assert client.wait_for_all(PATIENCE)
        settle(client)
    response = ended_by(late)
    assert isinstance(response, Response)
    assert response.late
    assert overruns(late) == [Overrun.LATE]
    assert duration(response.timing.slack) == -5.0
    assert [overruns(exchange) for exchange in behind] == [[Overrun.SKIPPED]] * 3
    assert isinstance(ended_by(after), Response)
    announced = late.arrivals[0].arrived_ns
    skipped = [exchange.arrivals[0].arrived_ns for exchange in behind]
    assert announced < late.arrivals[1].arrived_ns
    assert max(skipped) < late.arrivals[1].arrived_ns


def test_deactivating_cancels_and_the_node_serves_again(node: Subject) -> None:
    node.serve()
    with node.client() as client, Lookout(node) as lookout:
        jobs = [client.send(endless_work(f"job {number}")) for number in range(6)]
        lookout.see(decoding="job 0", waiting=5)
        node.deactivate()
        assert client.wait_for_all(PATIENCE)
        refused = client.send(ask("while inactive"))
        assert client.wait_for_all(PATIENCE)
        node.activate()
        again = client.send(ask("again"))
        assert client.wait_for_all(PATIENCE)
        assert [overruns(job) for job in jobs] == [[Overrun.CANCELED]] * 6
        assert overruns(refused) == [Overrun.REJECTED]
        assert isinstance(ended_by(again), Response)
    node.deactivate()
    node.cleanup()
    assert node.state() == "unconfigured"
    node.serve()
    with node.client() as client:
        anew = client.send(ask("anew"))
        assert client.wait_for_all(PATIENCE)
    assert isinstance(ended_by(anew), Response)
