# SPDX-License-Identifier: Apache-2.0
"""A node whose engine is on a server: what it does without it, and what it tells nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rcl_interfaces.msg import Log, ParameterEvent
from rclpy.serialization import serialize_message

from timebill_ros.msg import Overrun

from ..engine.scripted_server import Reply, answer, scripted
from ..engine.served_engine import SECRET
from .bench import FAILURE, SUCCESS, Bench

NOWHERE = "http://127.0.0.1:1"


def test_a_server_that_is_away_is_named_where_nothing_else_may_answer(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    node = bench.node(engine="served", url=NOWHERE)
    assert node.trigger_configure() == FAILURE
    told = "".join(capfd.readouterr())
    assert "ConnectError" in told
    assert NOWHERE in told


def test_without_the_server_the_next_engine_answers(bench: Bench) -> None:
    bench.active(engine="served", url=NOWHERE, fallback=["local"], max_tokens=10)
    bench.send("a", budget=600.0)
    bench.until(lambda: bench.terminal() == ["a"])
    (response,) = bench.responses
    assert response.engine == "local"
    assert response.text


def test_the_server_s_key_is_sent_to_it_and_shown_nowhere(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither on a topic, so in no bag, nor in a log, a parameter or a file."""
    key_file, profiles = tmp_path / "key", tmp_path / "profiles"
    key_file.write_text(SECRET)
    seen: list[object] = [bench.diagnostics, bench.responses, bench.overruns]
    for message, topic in ((Log, "/rosout"), (ParameterEvent, "/parameter_events")):
        kept: list[object] = []
        bench.client.create_subscription(message, topic, kept.append, 100)
        seen.append(kept)

    def repeat_it(to: Reply) -> None:
        told = to.received.headers["authorization"]
        to.json({"error": {"message": f"Incorrect API key provided: {told}"}}, "401 Unauthorized")

    with scripted(answer([" go", " left"], "stop")) as server:
        node = bench.active(
            engine="served",
            url=server.url,
            api_key_file=str(key_file),
            profile_cache=str(profiles),
            profile_seconds=1.0,
            max_tokens=10,
        )
        bench.send("fine", budget=600.0)
        bench.until(lambda: bench.terminal() == ["fine"])
        server.script = repeat_it
        bench.send("refused", budget=600.0)
        bench.until(lambda: len(bench.terminal()) == 2)
        bench.until(lambda: bench.said("engine").message != "" and len(bench.diagnostics) > 5)
        assert {each.headers["authorization"] for each in server.received} == {f"Bearer {SECRET}"}
    (overrun,) = bench.overruns
    assert overrun.reason == Overrun.FAILED
    assert "Incorrect API key provided: Bearer ***" in overrun.detail
    parameters = [node.get_parameter(name).value for name in node.list_parameters([], 0).names]
    assert str(key_file) in parameters
    secret = SECRET.encode()
    assert all(messages for messages in seen)
    for messages in seen:
        assert not any(secret in serialize_message(message) for message in messages)
    assert SECRET not in json.dumps(parameters, default=str)
    assert SECRET not in "".join(capfd.readouterr())
    assert not any(secret in file.read_bytes() for file in profiles.glob("*"))
    assert node.trigger_deactivate() == node.trigger_cleanup() == SUCCESS
