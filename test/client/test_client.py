# SPDX-License-Identifier: Apache-2.0
"""The client by topic, against a stand-in for the node, over real DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from timebill_ros.client import InstructionClient, NodeAbsent, NotCancelable
from timebill_ros.client.session import Session, free_domain
from timebill_ros.msg import Instruction, Overrun, Response

pytestmark = pytest.mark.e2e
TIMEOUT = 120.0


class StandIn:
    """Answers an instruction with what its prompt names, on a thread of its own."""

    def __init__(self, domain: int) -> None:
        self._session = Session("llm", domain)
        node = self._session.node
        self._responses = node.create_publisher(Response, "~/output/response", 10)
        self._overruns = node.create_publisher(Overrun, "~/output/overrun", 10)
        node.create_subscription(Instruction, "~/input/instruction", self._answer, 10)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._session.spin_until(self._ending.is_set, 600.0)
        self._session.close()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT)

    def _answer(self, message: Instruction) -> None:
        name = "stray" if message.prompt == "stray" else message.id
        if message.prompt == "late":
            self._overruns.publish(Overrun(id=name, reason=Overrun.LATE))
        if message.prompt == "kill":
            self._overruns.publish(Overrun(id=name, reason=Overrun.KILLED))
        elif message.prompt != "silence":
            self._responses.publish(Response(header=message.header, id=name, text="yes"))


@pytest.fixture
def domain() -> int:
    return free_domain()


@pytest.fixture
def client(domain: int) -> Iterator[InstructionClient]:
    stand_in = StandIn(domain)
    with InstructionClient(domain=domain, by_topic=True) as client:
        client.wait_for_node(TIMEOUT)
        yield client
    stand_in.close()


def test_answers_are_kept_by_id_with_their_arrival(client: InstructionClient) -> None:
    for name, prompt in (("a", "answer"), ("b", "kill"), ("c", "late")):
        client.send(Instruction(id=name, prompt=prompt))
    assert client.wait_for_all(TIMEOUT)
    late = client.exchanges["c"]
    assert client.wait_until(lambda: len(late.arrivals) == 2, TIMEOUT)
    messages = {name: [a.message for a in e.arrivals] for name, e in client.exchanges.items()}
    assert [m.text for m in messages["a"]] == ["yes"]
    assert [m.reason for m in messages["b"]] == [Overrun.KILLED]
    assert {type(m) for m in messages["c"]} == {Response, Overrun}
    assert isinstance(late.terminal, Response)
    assert all(e.sent_ns < e.arrivals[0].arrived_ns for e in client.exchanges.values())


def test_a_release_is_stamped_unless_it_is_given(client: InstructionClient) -> None:
    given = Instruction(id="given", prompt="answer")
    given.header.stamp.sec = 7
    sent = [client.send(Instruction(id="now", prompt="answer")), client.send(given)]
    assert client.wait_for_all(TIMEOUT)
    now, seven = (e.arrivals[0].message.header.stamp.sec for e in sent)
    assert now > 1_000_000_000
    assert seven == 7


def test_waiting_ends_without_an_answer(client: InstructionClient) -> None:
    client.send(Instruction(id="a", prompt="silence"))
    assert not client.wait_for_all(0.2)
    assert client.exchanges["a"].terminal is None


def test_strays_are_set_apart(client: InstructionClient) -> None:
    client.send(Instruction(id="a", prompt="stray"))
    assert client.wait_until(lambda: bool(client.strays), TIMEOUT)
    assert not client.wait_for_all(0.0)
    assert [arrival.message.id for arrival in client.strays] == ["stray"]


def test_an_id_must_tell_answers_apart(client: InstructionClient) -> None:
    client.send(Instruction(id="a", prompt="answer"))
    with pytest.raises(ValueError, match="id 'a' was sent before"):
        client.send(Instruction(id="a", prompt="answer"))
    made = {client.send(Instruction(prompt="answer")).instruction.id for _ in range(2)}
    assert len(made) == 2
    assert client.wait_for_all(TIMEOUT)


def test_what_only_goals_can_is_refused(client: InstructionClient) -> None:
    exchange = client.send(Instruction(id="a", prompt="silence"))
    with pytest.raises(NotCancelable, match="a was sent by topic"):
        exchange.cancel()
    with pytest.raises(ValueError, match="only goals have feedback"):
        client.ask("answer", on_feedback=print)


def test_a_long_life_keeps_the_newest_that_have_ended(client: InstructionClient) -> None:
    pending = client.send(Instruction(id="pending", prompt="silence"))
    for number in range(1100):
        client.send(Instruction(id=str(number), prompt="silence")).finish()
    assert client.exchanges["pending"] is pending
    assert list(client.exchanges)[1:] == [str(number) for number in range(100, 1100)]


def test_an_absent_node_is_named(domain: int) -> None:
    with (
        InstructionClient(server="/robot/llm", domain=domain, by_topic=True) as client,
        pytest.raises(NodeAbsent, match=r"/robot/llm/input/instruction after 0.3 s"),
    ):
        client.wait_for_node(0.3)
