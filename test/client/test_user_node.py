# SPDX-License-Identifier: Apache-2.0
"""The client inside a user's own node, which one single-threaded executor spins."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from test.client.goals import TIMEOUT, StandIn
from timebill_ros.client import CallbackWaits, Ending, InstructionClient, Record

pytestmark = pytest.mark.e2e


@pytest.fixture
def user(stand_in: tuple[StandIn, int]) -> Iterator[Node]:
    """A node that nobody spins yet."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=stand_in[1])
    node = Node("user", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def spun(user: Node) -> Iterator[Node]:
    """The node, spun on a thread of its own."""
    executor = SingleThreadedExecutor(context=user.context)
    executor.add_node(user)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield user
    executor.shutdown()
    thread.join(TIMEOUT)


@pytest.fixture
def client(spun: Node) -> Iterator[InstructionClient]:
    """On the spun node, and used from another thread."""
    with InstructionClient(spun) as client:
        client.wait_for_node(TIMEOUT)
        yield client


def test_another_thread_waits_while_the_executor_spins(client: InstructionClient) -> None:
    assert client.ask("one two").result(TIMEOUT).text == "one two"


def test_a_coroutine_awaits_the_answer_and_holds_up_no_other_callback(
    spun: Node, client: InstructionClient
) -> None:
    records: list[Record] = []
    others: list[bool] = []
    ended = threading.Event()

    async def ask() -> None:
        asking.cancel()
        waiting = client.ask("so wait")

        def tick() -> None:
            others.append(waiting.done())
            if len(others) == 3:
                waiting.cancel()

        # rclpy keeps the group of a coroutine from being run until it has ended.
        spun.create_timer(1e-3, tick, callback_group=ReentrantCallbackGroup())
        records.append(await waiting)
        records.append(await client.ask("one two"))
        ended.set()

    asking = spun.create_timer(1e-3, ask)
    assert ended.wait(TIMEOUT)
    assert [record.ending for record in records] == [Ending.CANCELED, Ending.IN_TIME]
    assert others[:3] == [False] * 3


def test_a_callback_asks_and_another_takes_the_answer(
    spun: Node, client: InstructionClient
) -> None:
    texts: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        asking.cancel()
        client.ask("one two").add_done_callback(
            lambda exchange: (texts.append(exchange.result().text), ended.set())
        )

    asking = spun.create_timer(1e-3, ask)
    assert ended.wait(TIMEOUT)
    assert texts == ["one two"]


def test_a_callback_that_would_wait_for_itself_is_told(
    spun: Node, client: InstructionClient
) -> None:
    told: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        asking.cancel()
        try:
            client.ask("one two").result()
        except CallbackWaits as error:
            told.append(str(error))
        ended.set()

    asking = spun.create_timer(1e-3, ask)
    assert ended.wait(TIMEOUT)
    assert "await the exchange, or use add_done_callback" in told[0]


def test_a_wait_spins_a_node_that_nobody_spins(user: Node) -> None:
    with InstructionClient(user) as client:
        client.wait_for_node(TIMEOUT)
        assert client.ask("one two").result(TIMEOUT).text == "one two"
        assert user.executor is None


def test_a_client_that_is_closed_leaves_the_node_as_it_was(user: Node) -> None:
    def entities() -> list[int]:
        kinds = (user.publishers, user.subscriptions, user.timers, user.waitables)
        return [len(list(kind)) for kind in kinds]

    before = entities()
    for by_topic in (False, True):
        client = InstructionClient(user, by_topic=by_topic)
        client.ask("one two", patience=60.0)
        assert entities() != before
        client.close()
        assert entities() == before
