# SPDX-License-Identifier: Apache-2.0
"""The service ``~/quote`` of a node in any state."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from timebill_ros.engine.request import Conversation
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.msg import ChatMessage, Instruction, Overrun
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.node.serialized import MOST_TURNS
from timebill_ros.node.topics import INSTRUCTION_QOS
from timebill_ros.srv import Quote

from .bench import PATIENCE, SUCCESS, Bench


def quoted(bench: Bench, *asked: Instruction) -> list[Quote.Response]:
    """The answers to requests that are sent at once."""
    client = bench.client.create_client(Quote, "/llm/quote", qos_profile=INSTRUCTION_QOS)
    bench.until(client.service_is_ready)
    pending = [client.call_async(Quote.Request(instruction=each)) for each in asked]
    bench.until(lambda: all(each.done() for each in pending))
    bench.client.destroy_client(client)
    return [each.result() for each in pending]


def instruction(budget: float, **fields: object) -> Instruction:
    return Instruction(id="a", prompt="stop", budget=duration_msg(budget), **fields)


def test_a_quote_promises_what_has_time_and_nothing_else(bench: Bench) -> None:
    bench.active(max_tokens=20)
    ample, hopeless = quoted(bench, instruction(600.0), instruction(1e-6))
    assert ample.promised
    assert ample.in_time == 1.0
    assert ample.plan.planner == "expected"
    assert ample.plan.prompt_tokens > 0
    assert nanoseconds(ample.enough) > 0
    assert not hopeless.promised
    assert hopeless.in_time == 0.0
    assert hopeless.detail == ample.detail == ""
    assert bench.terminal() == []


@pytest.mark.parametrize(
    ("asked", "detail"),
    [
        (Instruction(prompt=" "), "prompt: it is empty"),
        (instruction(1.0, max_tokens=10**6), "max_tokens: 1000000 exceed"),
        (
            Instruction(prompt="x", messages=[ChatMessage()] * (MOST_TURNS + 1)),
            f"messages: {MOST_TURNS + 1} turns are more",
        ),
    ],
    ids=["empty", "max_tokens", "turns"],
)
def test_what_would_be_refused_has_no_quote(bench: Bench, asked: Instruction, detail: str) -> None:
    bench.active(max_tokens=20)
    (answer,) = quoted(bench, asked)
    assert answer.detail.startswith(detail)
    assert not answer.promised
    assert answer.in_time == -1.0


def test_an_unconfigured_node_says_so(bench: Bench) -> None:
    node = bench.node()
    (answer,) = quoted(bench, instruction(1.0))
    assert answer.detail == "the node is not configured"
    assert node.trigger_configure() == SUCCESS
    assert quoted(bench, instruction(600.0))[0].promised  # before it is active, too
    assert node.trigger_cleanup() == SUCCESS
    assert quoted(bench, instruction(1.0))[0].detail == "the node is not configured"


def test_a_burst_of_quotes_is_answered_each(bench: Bench) -> None:
    bench.active(max_tokens=20)
    answers = quoted(bench, *[instruction(600.0)] * 40)
    assert all(each.promised or each.detail.startswith("quotes: 16 are") for each in answers)
    assert answers[0].promised


def test_a_quote_that_takes_long_keeps_no_other_waiting(bench: Bench) -> None:
    bench.active(max_tokens=20)
    go = threading.Event()
    prepare = TransformerEngine.prepare

    def held(engine: TransformerEngine, talk: Conversation, schema: str = "", *rest: object) -> Any:
        assert not schema or go.wait(PATIENCE)
        return prepare(engine, talk, schema, *rest)

    bench.stand_ins.setattr(TransformerEngine, "prepare", held)
    client = bench.client.create_client(Quote, "/llm/quote", qos_profile=INSTRUCTION_QOS)
    bench.until(client.service_is_ready)
    slow = instruction(600.0, response_schema='{"enum": ["go"]}')
    pending = [client.call_async(Quote.Request(instruction=slow)) for _ in range(3)]
    plain = client.call_async(Quote.Request(instruction=instruction(600.0)))
    bench.until(plain.done)
    assert plain.result().promised
    bench.send("meanwhile")
    bench.until(lambda: bench.terminal() == ["meanwhile"])
    assert not any(each.done() for each in pending)
    go.set()
    bench.until(lambda: all(each.done() for each in pending))
    assert all(each.result().promised for each in pending)
    bench.client.destroy_client(client)


def test_admission_rejects_at_once_with_the_time_that_would_be_enough(bench: Bench) -> None:
    bench.active(max_tokens=20, admission="reject")
    bench.send("hopeless", budget=0.0005)
    bench.send("ample", budget=600.0)
    bench.until(lambda: len(bench.terminal()) == 2)
    (overrun,) = bench.overruns
    # Where the machine is slower than the budget, it has expired before it could be looked at.
    assert overrun.reason in (Overrun.REJECTED, Overrun.EXPIRED)
    assert [response.id for response in bench.responses] == ["ample"]
