# SPDX-License-Identifier: Apache-2.0
"""Finding out what a server is and runs; its address, its secret, its times."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.errors import (
    ServerFault,
    ServerUnavailable,
)
from timebill_ros.engine.served.connect import ServedSettings, checked_url, connect
from timebill_ros.engine.served.profile import prompt_sizes

from .scripted_server import Reply, answer, scripted
from .served_engine import LLAMACPP, SECRET, SGLANG, VLLM, engine_on, run, streaming


@pytest.mark.parametrize(
    ("models", "flavor", "context"),
    [
        (VLLM, "vllm", 512),
        (SGLANG, "sglang", 512),
        (LLAMACPP, "llamacpp", 256),
        ({"data": [{"id": "any"}]}, "openai", 4096),
        ({"data": [{"id": "any", "owned_by": 5, "max_model_len": -1}]}, "openai", 4096),
    ],
)
def test_the_server_s_list_of_models_tells_what_it_is(
    models: object, flavor: str, context: int
) -> None:
    def reply(to: Reply) -> None:
        to.json({"default_generation_settings": {"n_ctx": 256}})

    with engine_on(reply, models) as (engine, _):
        assert engine.model.flavor.name == flavor
        assert engine.max_context == context
        assert not engine.capabilities.evicts


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, ""),
        ({"data": [{"id": "a"}]}, "c"),
        ({"data": "none"}, ""),
        ({}, ""),
    ],
)
def test_a_model_that_is_not_there_is_named(models: object, name: str) -> None:
    refused = pytest.raises(SettingError, match="model must be one of the server's")
    with refused, engine_on(answer([]), models, model=name):
        pass


def test_a_server_that_is_none_is_told() -> None:
    with pytest.raises(ServerFault, match="no JSON object"), engine_on(answer([]), ["x"]):
        pass
    with scripted(answer([])) as server:
        url = server.url
    with pytest.raises(ServerUnavailable):
        connect(ServedSettings(url))


def test_a_list_of_models_is_read_up_to_a_bound() -> None:
    endless = {"data": [{"id": "x" * (1 << 20)}]}
    refused = pytest.raises(ServerFault, match="longer than 1048576 bytes")
    with refused, engine_on(answer([]), endless):
        pass


def test_what_is_asked_beside_the_list_follows_no_redirect_either() -> None:
    with scripted(answer([])) as other:

        def reply(to: Reply) -> None:
            to.json({}, "302 Found", f"Location: {other.url}/props")

        with engine_on(reply, LLAMACPP) as (engine, server):
            assert [each.path for each in server.received] == ["/props"]
            assert engine.max_context == 512
        assert other.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "ftp://host", "http://", "http://host:99999", "http://ho st"),
        *("http://me:word@host", "http://host/?key=1", "http://host/#x", "http://host:0"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="url must be") as caught:
        checked_url(url)
    assert "word" not in str(caught.value)
    assert "key" not in str(caught.value)


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_an_address_may_have_openai_s_path(tail: str) -> None:
    assert checked_url(f"https://host/base{tail}") == "https://host/base"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_the_key_is_sent_and_shown_nowhere(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(to: Reply) -> None:
        told = to.received.headers["authorization"]
        to.json({"error": {"message": f"Incorrect API key provided: {told}"}}, "401 Unauthorized")

    caplog.set_level(logging.DEBUG)
    with engine_on(reply, api_key_file=str(key_file)) as (engine, server):
        with pytest.raises(ServerFault, match=r"HTTP 401: .*\*\*\*") as caught:
            run(engine)
        server.script = streaming(b'data: {"error": "%s"}\n\n' % SECRET.encode())
        with pytest.raises(ServerFault) as streamed:
            run(engine)
        assert server.wait_for(1)[0].headers["authorization"] == f"Bearer {SECRET}"
        shown = [engine.device, repr(engine.model), str(dict(engine.traits)), caplog.text]
    for text in (*shown, str(caught.value), str(streamed.value)):
        assert SECRET not in text


@pytest.mark.parametrize("content", [b"", b"  \n", b"a b", b"\xff", b"x" * 5000, b"a\nb"])
def test_a_key_file_that_holds_none_is_refused_without_telling_it(
    key_file: Path, content: bytes
) -> None:
    key_file.write_bytes(content)
    with pytest.raises(SettingError, match="api_key_file must be") as caught:
        connect(ServedSettings("http://127.0.0.1:1", api_key_file=str(key_file)))
    assert "a b" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SettingError, match="api_key_file must be"):
            connect(ServedSettings("http://127.0.0.1:1", api_key_file=str(path)))


def test_a_key_that_others_can_read_is_warned_of(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key_file.chmod(0o644)
    with engine_on(answer([]), api_key_file=str(key_file)):
        pass
    assert "others may read it" in caplog.text


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*made, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    refused = pytest.raises(ServerUnavailable, match="CERTIFICATE_VERIFY_FAILED")
    with scripted(answer([]), tls=context) as server, refused:
        connect(ServedSettings(server.url))


def test_a_profile_covers_lengths_and_tokens() -> None:
    def reply(to: Reply) -> None:
        usage = {"prompt_tokens": len(to.received.body["messages"][-1]["content"]) // 4}
        answer(["x"] * 99, usage={**usage, "completion_tokens": 16})(to)

    with engine_on(reply, VLLM) as (engine, server):
        told: list[str] = []
        points = engine.measure(0.0, lambda share, doing: told.append(doing))
        texts = [each.body["messages"][-1]["content"] for each in server.received]
        assert all(each.body["ignore_eos"] for each in server.received)
    assert len(points.prefill) == len(set(told)) == 5
    assert len({text[:32] for text in texts}) == len(texts)
    assert points.evict == ()


def test_a_context_too_small_to_be_profiled_is_named() -> None:
    with pytest.raises(SettingError, match="max_context must be at least"):
        prompt_sizes(100)


class Ended(Exception):
    """Nobody waits any more."""


def end(*_: object) -> None:
    raise Ended


def test_the_wait_for_a_server_that_says_nothing_can_be_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Ended):
        connect(ServedSettings(f"http://127.0.0.1:{silent.getsockname()[1]}"), end)
    with engine_on(Reply.until_closed, VLLM) as (engine, server):
        asked = lambda *_: end() if server.received else None  # noqa: E731
        with pytest.raises(Ended):
            engine.measure(1.0, asked)
        with pytest.raises(Ended):
            engine.warm_up(asked)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_stays_open() -> None:
    def use() -> None:
        with engine_on(answer([" a"])) as (engine, _):
            run(engine)

    use()
    before = open_files()
    for _ in range(3):
        use()
    assert open_files() <= before
