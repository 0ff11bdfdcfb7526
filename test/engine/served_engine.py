# SPDX-License-Identifier: Apache-2.0
"""An engine on a scripted server: what the tests of it share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from timebill_ros.engine.request import Conversation, Turn
from timebill_ros.engine.served.connect import ServedSettings, connect
from timebill_ros.engine.served.engine import ServedEngine

from .scripted_server import Reply, Script, ScriptedServer, scripted

SAID = Conversation("be brief", "go left", (Turn("user", "hello"), Turn("assistant", "hi")))
SECRET = "sk-very-secret-0123456789"
VLLM = {"data": [{"id": "big", "owned_by": "vllm", "max_model_len": 512}]}
SGLANG = {"data": [{"id": "big", "owned_by": "sglang", "max_model_len": 512}]}
LLAMACPP = {"data": [{"id": "small.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 512}}]}


@contextmanager
def engine_on(
    script: Script, models: object = None, **settings: object
) -> Iterator[tuple[ServedEngine, ScriptedServer]]:
    """An engine on a server with this script."""
    given = {} if models is None else {"models": models}
    with scripted(script, **given) as server:
        told = ServedSettings(server.url, **{"window": 8, **settings})  # type: ignore[arg-type]
        with closing(connect(told)) as engine:
            yield engine, server


def run(engine: ServedEngine, max_tokens: int = 8, **asked: object) -> str:
    """One request from its beginning to its end."""
    engine.begin(engine.prepare(SAID, **asked), max_tokens)  # type: ignore[arg-type]
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return engine.text()


def streaming(*pieces: bytes) -> Script:
    """A stream of exactly these events, ended properly."""

    def reply(to: Reply) -> None:
        to.head()
        to.send(*pieces)
        to.end()

    return reply
