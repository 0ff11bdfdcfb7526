# SPDX-License-Identifier: Apache-2.0
"""A server on loopback that does what a script says, byte by byte: every fault, and no clock."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

WAIT = 120.0  # s that a test waits for what must happen
MODELS = {"data": [{"id": "scripted", "object": "model", "owned_by": "test"}]}
END = b"data: [DONE]\n\n"


def chunk(
    text: str | None = None, finish: str | None = None, usage: Mapping[str, int] | None = None
) -> bytes:
    """One event of a chat completion."""
    delta = {} if text is None else {"content": text}
    content: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    if usage is not None:
        content["usage"] = dict(usage)
    return b"data: " + json.dumps(content).encode() + b"\n\n"


@dataclass
class Received:
    """One request, and what became of its connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    closed: threading.Event = field(default_factory=threading.Event)

    def saw_close(self) -> bool:
        """Whether the client closed the connection while this was answered."""
        return self.closed.wait(WAIT)


class Reply:
    """What a script answers one request with."""

    def __init__(self, connection: socket.socket, received: Received) -> None:
        self.received = received
        self._connection = connection

    def head(self, status: str = "200 OK", *more: str, chunked: bool = True) -> None:
        """The status line and the headers."""
        lines = [f"HTTP/1.1 {status}", *more]
        if chunked:
            lines += ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def send(self, *pieces: bytes) -> None:
        """Parts of a chunked body."""
        for piece in pieces:
            self.raw(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end(self) -> None:
        """The end of a chunked body."""
        self.raw(b"0\r\n\r\n")

    def raw(self, data: bytes) -> None:
        """Bytes as they are; nothing where the client is gone."""
        try:
            self._connection.sendall(data)
        except OSError:
            self.received.closed.set()

    def json(self, content: object, status: str = "200 OK", *more: str) -> None:
        """A whole answer."""
        data = json.dumps(content).encode()
        self.head(
            status,
            f"Content-Length: {len(data)}",
            "Content-Type: application/json",
            *more,
            chunked=False,
        )
        self.raw(data)

    def until_closed(self) -> None:
        """Send nothing more until the client has gone."""
        self._connection.settimeout(WAIT)
        try:
            while self._connection.recv(4096):
                pass
        except TimeoutError:
            return
        except OSError:  # reset: the client went before it had read all that was sent
            pass
        self.received.closed.set()

    def cut(self) -> None:
        """End the connection in the middle of it."""
        self._connection.shutdown(socket.SHUT_RDWR)


Script = Callable[[Reply], None]


def answer(
    words: Iterable[str], finish: str = "length", usage: Mapping[str, int] | None = None
) -> Script:
    """A well-behaved answer, one event a word; no more of them than ``max_tokens``."""
    words = list(words)

    def reply(to: Reply) -> None:
        asked = to.received.body.get("max_tokens")
        if asked is None:  # no completion
            to.json({})
            return
        said = words[:asked]
        to.head()
        to.send(chunk(""), *(chunk(word) for word in said))
        to.send(chunk(None, finish if len(said) < asked else "length"))
        if usage is not None:
            counted = json.dumps({"choices": [], "usage": dict(usage)})
            to.send(b"data: " + counted.encode() + b"\n\n")
        to.send(END)
        to.end()

    return reply


class ScriptedServer:
    """Answers ``/v1/models`` by itself, and each other request by ``script``.

    Attributes:
        script: what answers; may be changed between requests.
        received: the requests that it answered, the list of models aside.
        connections: how many were opened.
    """

    def __init__(
        self,
        script: Script,
        models: object = MODELS,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.script = script
        self._tls = tls
        self.models = models
        self.received: list[Received] = []
        self.connections = 0
        self.arrived = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        """Where it listens."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def wait_for(self, count: int, path: str = "/v1/chat/completions") -> list[Received]:
        """The requests to ``path``, once there are ``count``."""

        def found() -> list[Received]:
            return [each for each in self.received if each.path == path]

        with self.arrived:
            assert self.arrived.wait_for(lambda: len(found()) >= count, WAIT)
            return found()

    def close(self) -> None:
        """End every connection and thread."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(WAIT)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while (request := _read(reader)) is not None:
                    self._reply(Reply(connection, request))
        except (OSError, ValueError):
            pass

    def _reply(self, reply: Reply) -> None:
        if reply.received.path == "/v1/models":
            reply.json(self.models)
            return
        with self.arrived:
            self.received.append(reply.received)
            self.arrived.notify_all()
        self.script(reply)


def _read(reader: Any) -> Received | None:
    line = reader.readline().decode()
    if not line:
        return None
    method, path, _ = line.split(" ", 2)
    headers = {}
    while (header := reader.readline().decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    return Received(method, path, headers, json.loads(body) if body else {})


@contextmanager
def scripted(
    script: Script, models: object = MODELS, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[ScriptedServer]:
    """A server for as long as the block runs."""
    server = ScriptedServer(script, models, tls, port)
    try:
        yield server
    finally:
        server.close()
