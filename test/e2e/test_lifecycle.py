# SPDX-License-Identifier: Apache-2.0
"""The node in its own process: driven by its lifecycle services, answering over DDS."""

from __future__ import annotations

import pytest

from timebill_ros.msg import Overrun, Response

from .subject import PATIENCE, Subject, ask, duration, ended_by, long_work, overruns

pytestmark = pytest.mark.e2e

ATTEMPTS = 20
STAGES = ("prefill", "decode")


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
    assert 0.0 < duration(response.timing.total) <= 30.0 - duration(response.timing.slack) + 1e-6


@pytest.mark.parametrize("stage", [Overrun.DECODE])
def test_kill_stops_at_the_deadline_and_announces_it(node: Subject, stage: int) -> None:
    """Budgets follow from an answer without hurry; more are tried where the machine is uneven."""
    node.serve(planner="vanilla")
    with node.client() as client:
        calm = client.send(long_work("calm"))
        assert client.wait_for_all(PATIENCE)
        prefill, decode = (duration(getattr(ended_by(calm).timing, s)) for s in STAGES)
        for attempt in range(ATTEMPTS):
            share = 0.2 + 0.6 * attempt / ATTEMPTS
            budget = share * prefill if stage == Overrun.PREFILL else prefill + share * decode
            killed = client.send(long_work(f"hurried {attempt}", budget))
            assert client.wait_for_all(PATIENCE)
            message = ended_by(killed)
            if isinstance(message, Overrun) and message.stage == stage:
                break
        client.spin(0.2)
    assert overruns(killed) == [Overrun.KILLED]
    assert message.stage == stage
    assert duration(message.timing.slack) <= 0.0
    assert (message.response_tokens > 0) == bool(message.partial_text) == (stage == Overrun.DECODE)


def test_skip_next_lets_the_late_one_run_on_and_skips_those_behind(node: Subject) -> None:
    node.serve(overrun_policy="skip_next", planner="vanilla")
    with node.client() as client:
        calm = client.send(long_work("calm"))
        assert client.wait_for_all(PATIENCE)
        late = client.send(long_work("late", duration(ended_by(calm).timing.total) / 3))
        behind = [client.send(ask(f"behind {number}")) for number in range(3)]
        assert client.wait_for_all(PATIENCE)
        after = client.send(ask("after"))
        assert client.wait_for_all(PATIENCE)
        client.spin(0.2)
    response = ended_by(late)
    assert isinstance(response, Response)
    assert response.late
    assert overruns(late) == [Overrun.LATE]
    assert duration(response.timing.slack) < 0.0
    assert [overruns(exchange) for exchange in behind] == [[Overrun.SKIPPED]] * 3
    assert isinstance(ended_by(after), Response)
    announced = late.arrivals[0].arrived_ns
    skipped = [exchange.arrivals[0].arrived_ns for exchange in behind]
    assert announced < late.arrivals[1].arrived_ns
    assert max(skipped) < late.arrivals[1].arrived_ns


def test_deactivating_cancels_and_the_node_serves_again(node: Subject) -> None:
    node.serve()
    with node.client() as client:
        for number in range(6):
            client.send(long_work(f"job {number}"))
        client.spin(0.05)
        node.deactivate()
        assert client.wait_for_all(PATIENCE)
        refused = client.send(ask("while inactive"))
        assert client.wait_for_all(PATIENCE)
        node.activate()
        again = client.send(ask("again"))
        assert client.wait_for_all(PATIENCE)
        jobs = [e for name, e in client.exchanges.items() if name.startswith("job")]
        assert [Overrun.CANCELED] in [overruns(exchange) for exchange in jobs]
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
