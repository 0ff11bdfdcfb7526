# SPDX-License-Identifier: Apache-2.0
"""An engine on a server that is broken, hostile, slow or gone."""

from __future__ import annotations

import pytest

from timebill_ros.engine.errors import (
    EngineError,
    ServerFault,
    ServerUnavailable,
)

from .scripted_server import END, Reply, Script, answer, chunk
from .served_engine import SAID, SGLANG, engine_on, run, streaming

FAULTS: dict[str, tuple[Script, type[EngineError], str]] = {
    "not_json": (streaming(b"data: {half\n\n"), ServerFault, "an event is not JSON"),
    "no_object": (streaming(b"data: [1]\n\n"), ServerFault, "an event is no object"),
    "nested": (streaming(b"data: " + b"[" * 100_000 + b"\n\n"), ServerFault, "is not JSON"),
    "not_utf8": (streaming(b"data: \xff\n\n"), ServerFault, "not UTF-8"),
    "no_text": (
        streaming(b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'),
        ServerFault,
        "content is no text",
    ),
    "no_choices": (streaming(b'data: {"choices": 5}\n\n'), ServerFault, "choices is no list"),
    "error_event": (
        streaming(b'data: {"error": {"message": "out of memory"}}\n\n'),
        ServerFault,
        "out of memory",
    ),
    "unknown_finish": (
        streaming(chunk("a"), chunk(None, "content_filter"), END),
        ServerFault,
        "finish_reason: 'content_filter' is none of",
    ),
    "expired_in_the_queue": (
        streaming(chunk(""), chunk(None, "length"), END),
        ServerFault,
        "'length' of an answer that has not begun",
    ),
    "no_finish": (streaming(chunk("a"), END), ServerFault, "ended after 1 tokens without a reason"),
    "nothing": (streaming(), ServerFault, "ended after 0 tokens without a reason"),
    "long_line": (
        streaming(b"data: " + b"x" * (1 << 20), b"x" * 4096),
        ServerFault,
        "a line of more than 1048576 bytes",
    ),
    "flood": (
        streaming(*[b": " + b"x" * 60_000 + b"\n"] * 64),
        ServerFault,
        "longer than an answer of max_tokens can be",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_must_not_send_is_named(fault: str) -> None:
    script, kind, message = FAULTS[fault]
    with engine_on(script) as (engine, server):
        with pytest.raises(kind, match=message):
            run(engine)
        engine.abort()
        server.script = answer([" fine"], "stop")
        assert run(engine) == " fine"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("429 Too Many Requests", ServerUnavailable),
        ("500 Internal Server Error", ServerUnavailable),
        ("503 Service Unavailable", ServerUnavailable),
        ("400 Bad Request", ServerFault),
        ("401 Unauthorized", ServerFault),
    ],
)
def test_a_refusal_is_told_in_the_server_s_words(status: str, kind: type[EngineError]) -> None:
    def reply(to: Reply) -> None:
        to.json({"error": {"message": "because"}}, status)

    with (
        engine_on(reply) as (engine, _),
        pytest.raises(kind, match=f"HTTP {status[:3]}: because"),
    ):
        run(engine)


def test_an_error_s_body_is_read_up_to_a_bound() -> None:
    def reply(to: Reply) -> None:
        to.json({"error": "x" * 100_000}, "500 Internal Server Error")

    with (
        engine_on(reply) as (engine, _),
        pytest.raises(ServerUnavailable, match=r"HTTP 500: Internal Server Error$"),
    ):
        run(engine)


@pytest.mark.parametrize("other", ["http://example.invalid/v1/chat/completions", "/elsewhere"])
def test_a_redirect_is_refused(other: str) -> None:
    def reply(to: Reply) -> None:
        to.json({}, "307 Temporary Redirect", f"Location: {other}")

    with engine_on(reply) as (engine, server):
        with pytest.raises(ServerFault, match="HTTP 307: it redirects"):
            run(engine)
        assert len(server.received) == 1


def test_a_stream_that_is_cut_is_told() -> None:
    def reply(to: Reply) -> None:
        to.head()
        to.send(chunk("a"))
        to.cut()

    with engine_on(reply) as (engine, _), pytest.raises(ServerUnavailable):
        run(engine)


def test_a_server_that_is_gone_is_told() -> None:
    with engine_on(answer([" a"])) as (engine, server):
        server.close()
        with pytest.raises(ServerUnavailable):
            run(engine)


def test_a_server_that_never_answers_keeps_nobody() -> None:
    with engine_on(Reply.until_closed) as (engine, server):
        engine.begin(engine.prepare(SAID), 8)
        assert [engine.prefill_chunk() for _ in range(3)] == [False] * 3
        (sent,) = server.wait_for(1)
        engine.abort()
        assert sent.saw_close()


@pytest.mark.parametrize("noise", [b": ping\n\n", chunk(""), b"da", b"\n"])
def test_a_server_that_trickles_keeps_nobody(noise: bytes) -> None:
    def reply(to: Reply) -> None:
        to.head()
        while not to.received.closed.is_set():
            to.send(noise)

    with engine_on(reply, max_context=100_000) as (engine, server):
        engine.begin(engine.prepare(SAID), 90_000)
        assert not engine.prefill_chunk()
        (sent,) = server.wait_for(1)
        engine.abort()
        assert sent.saw_close()


def test_request_timeout_ends_what_no_deadline_does() -> None:
    with (
        engine_on(Reply.until_closed, request_timeout=1.0) as (engine, _),
        pytest.raises(ServerUnavailable, match=r"request_timeout: no end within 1 s"),
    ):
        run(engine)


def test_giving_up_closes_the_stream() -> None:
    def reply(to: Reply) -> None:
        to.head()
        to.send(chunk("a"), chunk("b"))
        to.until_closed()

    with engine_on(reply) as (engine, server):
        engine.begin(engine.prepare(SAID), 8)
        while not engine.prefill_chunk():
            pass
        engine.abort()
        assert server.wait_for(1)[0].saw_close()
        server.script = answer([" fine"], "stop")
        assert run(engine) == " fine"


def test_sglang_is_told_which_request_is_given_up() -> None:
    def reply(to: Reply) -> None:
        if to.received.path == "/abort_request":
            to.json({})
            return
        to.head()
        to.until_closed()

    with engine_on(reply, SGLANG) as (engine, server):
        engine.begin(engine.prepare(SAID), 8)
        assert not engine.prefill_chunk()
        (sent,) = server.wait_for(1)
        engine.abort()
        (aborted,) = server.wait_for(1, "/abort_request")
        assert aborted.body == {"rid": sent.body["rid"]}
