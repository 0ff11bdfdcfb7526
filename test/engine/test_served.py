# SPDX-License-Identifier: Apache-2.0
"""What an engine on a server asks, and what it makes of good answers."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from timebill_ros.engine.errors import (
    ContextExceeded,
    EngineMisuse,
    PromptTooLong,
    SchemaRefused,
    SchemaViolated,
)
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, RequestHints, SamplingOverride

from .scripted_server import END, WAIT, Reply, answer, chunk
from .served_engine import SAID, VLLM, engine_on, run, streaming


def test_a_request_has_openai_s_form() -> None:
    with engine_on(answer([" a", " b"], "stop")) as (engine, server):
        assert run(engine, max_tokens=5) == " a b"
        assert engine.finish_reason is FinishReason.EOS
        (sent,) = server.wait_for(1)
    assert (sent.method, sent.path) == ("POST", "/v1/chat/completions")
    assert sent.body == {
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": "go left"},
        ],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.0,
        "stream_options": {"include_usage": True},
    }
    assert "authorization" not in sent.headers


def test_sampling_is_the_request_s_own_or_the_engine_s() -> None:
    default = SamplingOverride(temperature=0.5, top_p=0.9, seed=7, stop=("END",))
    with engine_on(answer([" a"]), sampling=default) as (engine, server):
        run(engine)
        run(engine, sampling=SamplingOverride(seed=8, stop=()))
        run(engine, sampling=SamplingOverride(temperature=0.0))
        bodies = [each.body for each in server.wait_for(3)]
    names = ("temperature", "top_p", "seed", "stop")
    assert [{name: body[name] for name in names if name in body} for body in bodies] == [
        {"temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["END"]},
        {"temperature": 0.5, "top_p": 0.9, "seed": 8},
        {"temperature": 0.0, "stop": ["END"]},
    ]


def test_requests_share_one_warm_connection() -> None:
    with engine_on(answer([" a", " b"], "stop")) as (engine, server):
        for _ in range(5):
            run(engine)
            engine.settle(WAIT)  # until the stream has ended: its connection is free again
            engine.abort()
        server.wait_for(5)
        assert server.connections == 1


def test_the_server_s_count_of_tokens_wins() -> None:
    usage = {"prompt_tokens": 77, "completion_tokens": 6}
    events = (chunk(" a"), chunk(" b"), chunk(None, "stop", usage), END)
    with engine_on(streaming(*events)) as (engine, _):
        run(engine)
        assert (engine.response_tokens, engine.prompt_tokens) == (6, 77)


def test_a_missing_usage_leaves_the_events_to_be_counted() -> None:
    with engine_on(answer([" a", " b"], "stop")) as (engine, _):
        run(engine)
        assert (engine.response_tokens, engine.prompt_tokens) == (2, None)


def test_prompts_are_estimated_from_what_the_server_counted() -> None:
    usage = {"prompt_tokens": 232, "completion_tokens": 1}
    words = Conversation("", "x" * 1000)
    with engine_on(answer([" a"], "stop", usage)) as (engine, _):
        before = engine.prepare(words).prompt_tokens
        for _ in range(60):
            engine.begin(engine.prepare(words), 1)
            while not engine.prefill_chunk():
                pass
            while engine.finish_reason is None:
                engine.step()
            engine.settle(WAIT)
        assert before > 300
        assert engine.prepare(words).prompt_tokens == pytest.approx(232, abs=2)


def test_a_count_that_comes_after_the_response_is_learnt_from() -> None:
    go = threading.Event()

    def reply(to: Reply) -> None:
        to.head()
        to.send(chunk("a"))
        assert go.wait(WAIT)
        to.send(chunk(None, "length", {"prompt_tokens": 7, "completion_tokens": 1}), END)
        to.end()

    with engine_on(reply) as (engine, _):
        run(engine, max_tokens=1)
        assert (engine.response_tokens, engine.prompt_tokens) == (1, None)
        before = engine.prepare(SAID).prompt_tokens
        go.set()
        engine.settle(WAIT)
        assert engine.prompt_tokens == 7
        assert engine.prepare(SAID).prompt_tokens < before


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", FinishReason.EOS), ("length", FinishReason.LENGTH)]
)
def test_finish_reasons_are_told(finish: str, reason: FinishReason) -> None:
    with engine_on(streaming(chunk("a"), chunk(None, finish), END)) as (engine, _):
        run(engine)
        assert engine.finish_reason is reason


def test_a_stop_string_is_told_where_the_server_says_so() -> None:
    stopped = json.dumps(
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    )
    events = (chunk("a"), b"data: " + stopped.encode() + b"\n\n", END)
    with engine_on(streaming(*events)) as (engine, _):
        run(engine)
        assert engine.finish_reason is FinishReason.STOP


def test_an_answer_that_ends_at_once_is_one_token_long() -> None:
    with engine_on(streaming(chunk(None, "stop"), END)) as (engine, _):
        assert run(engine) == ""
        assert (engine.response_tokens, engine.finish_reason) == (1, FinishReason.EOS)


def test_a_character_may_be_cut_anywhere() -> None:
    whole = chunk("grün \N{ROBOT FACE}").replace(b"\\u00fc", "ü".encode())
    cut = whole.index("ü".encode()) + 1

    def reply(to: Reply) -> None:
        to.head()
        to.send(whole[:cut], whole[cut : cut + 9], whole[cut + 9 :], chunk(None, "stop"), END)
        to.end()

    with engine_on(reply) as (engine, _):
        assert run(engine) == "grün \N{ROBOT FACE}"


def test_half_a_surrogate_pair_waits_for_the_other_half() -> None:
    def half(escape: bytes) -> bytes:
        return chunk("@").replace(b"@", escape)

    events = (half(b"\\ud83e"), half(b"\\udd16"), half(b"x\\ud83e"), chunk(None, "stop"), END)
    with engine_on(streaming(*events)) as (engine, _):
        engine.begin(engine.prepare(SAID), 8)
        while not engine.prefill_chunk():
            pass
        seen = [engine.text()]
        while engine.finish_reason is None:
            engine.step()
            seen.append(engine.text())
    assert seen[0] == ""
    assert seen[-1] == "\N{ROBOT FACE}x"
    seen[-1].encode()  # nothing that a message could not carry


EXPECTED = RequestHints(time_left=1.5, first_token=0.4, tokens=30, most_tokens=100)


@pytest.mark.parametrize(
    ("flavor", "priority", "hints"),
    [
        ("vllm", True, {"priority": 1_500 - 3_600_000}),
        ("vllm", False, {}),
        ("sglang", True, {"priority": 3_600_000 - 1_500}),
        ("llamacpp", True, {"t_max_predict_ms": 1_500}),
        (
            "dynamo",
            True,
            {"nvext": {"agent_hints": {"osl": 30, "priority": 3_600_000 - 1_500}}},
        ),
        ("dynamo", False, {"nvext": {"agent_hints": {"osl": 30}}}),
        ("tensorrt", True, {}),
        ("openai", True, {}),
    ],
)
def test_each_flavor_gets_its_own_hints(
    flavor: str, priority: bool, hints: dict[str, object]
) -> None:
    with engine_on(answer([" a"]), server_flavor=flavor, server_priority=priority) as found:
        engine, server = found
        run(engine)
        engine.begin(replace(engine.prepare(SAID), expected=EXPECTED), 200)
        while not engine.prefill_chunk():
            pass
        plain, hinted = server.wait_for(2)
    named = {"rid"}
    added = {k: v for k, v in hinted.body.items() if k not in plain.body.keys() | named}
    assert added == hints
    assert hinted.body["max_tokens"] == 100
    slo = hinted.headers.get("x-slo-ttft-ms")
    assert slo == ("400" if flavor in ("vllm", "sglang", "dynamo") else None)


def test_vllm_counts_in_every_event() -> None:
    with engine_on(answer([" a"]), VLLM) as (engine, server):
        run(engine)
        options = server.wait_for(1)[0].body["stream_options"]
    assert options == {"include_usage": True, "continuous_usage_stats": True}


def test_a_schema_goes_to_the_server_and_is_checked_here() -> None:
    schema = '{"enum": ["left", "right"]}'
    with engine_on(answer(['"le', 'ft"'], "stop"), VLLM) as (engine, server):
        assert run(engine, response_schema=schema) == '"left"'
        sent = server.wait_for(1)[0].body
        assert sent["response_format"]["json_schema"]["schema"] == json.loads(schema)
        server.script = answer(['"up"'], "stop")
        with pytest.raises(SchemaViolated):
            run(engine, response_schema=schema)
        with pytest.raises(SchemaRefused):
            engine.prepare(SAID, "{")


def test_an_unfinished_answer_is_closed_to_what_satisfies_its_schema() -> None:
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"say": {"type": "string"}, "turn": {"enum": ["left", "left turn"]}},
        }
    )
    text = '{"say": "the door is op'
    with engine_on(answer([text] + ["p"] * 9), VLLM) as (engine, server):
        run(engine, response_schema=schema)
        assert engine.complete_prefix() == '{"say": "the door is"}'
        server.script = answer(['{"turn": "left tu'] + ["r"] * 9)
        run(engine, response_schema=schema)
        assert engine.complete_prefix() == "{}"  # half a choice is another choice


def test_a_flavor_without_schemas_refuses_them() -> None:
    with engine_on(answer([])) as (engine, _), pytest.raises(SchemaRefused, match="'openai'"):
        engine.prepare(SAID, '{"enum": ["left"]}')


def test_what_cannot_fit_is_refused_before_it_is_sent() -> None:
    with engine_on(answer([]), max_context=64) as (engine, server):
        with pytest.raises(PromptTooLong):
            engine.prepare(Conversation("", "x" * 2000))
        with pytest.raises(ContextExceeded):
            engine.begin(engine.prepare(SAID), 60)
        with pytest.raises(EngineMisuse):
            engine.evict(8)
        assert server.received == []
