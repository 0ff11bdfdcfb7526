# SPDX-License-Identifier: Apache-2.0
"""What a server streams: from bytes to events to pieces of a response, all of it bounded.

Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), each with an
object of the form of OpenAI's ``chat.completion.chunk``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from timebill_ros.engine.errors import ServerFault

MOST_LINE = 1 << 20
"""Longest line of a stream, bytes."""

_DONE = "[DONE]"
_SHOWN = 80  # characters of what is wrong
_MOST_TOKENS = 10_000_000  # that a server can count without lying


@dataclass(frozen=True)
class Piece:
    """What one event adds to the response.

    Attributes:
        text: what is appended.
        tokens: response tokens that the event stands for; 1 as a rule, 0 of one without content.
        finish: the server's own word for why the response ended; "" while it goes on.
        stop_string: a stop string ended it, as far as the server says.
        prompt_tokens, response_tokens: N_x and N so far, where the server counts; None otherwise.
        last: the server says that nothing more will come.
    """

    text: str = ""
    tokens: int = 0
    finish: str = ""
    stop_string: bool = False
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    last: bool = False


LAST = Piece(last=True)


class EventDecoder:
    """Cuts a stream of bytes into the data of its events, wherever the network cut it."""

    def __init__(self, most_bytes: int) -> None:
        """A stream of at most ``most_bytes``."""
        self._left = most_bytes
        self._pending = b""
        self._data: list[str] = []

    def feed(self, received: bytes) -> Iterator[Piece]:
        """The pieces that are complete now.

        Raises:
            ServerFault: the stream or a line is too long, is not UTF-8, holds no such object, or
                tells of an error.
        """
        self._left -= len(received)
        if self._left < 0:
            raise ServerFault("stream: it is longer than an answer of max_tokens can be")
        *lines, self._pending = (self._pending + received).split(b"\n")
        if len(self._pending) > MOST_LINE:
            raise ServerFault(f"stream: a line of more than {MOST_LINE} bytes")
        for line in lines:
            if data := self._line(line.removesuffix(b"\r")):
                yield LAST if data.strip() == _DONE else read_piece(data)

    def _line(self, line: bytes) -> str:
        """The data of the event that this line ends; "" where it ends none."""
        if not line:
            data, self._data = "\n".join(self._data), []
            return data
        field, _, value = line.partition(b":")
        if field == b"data":
            try:
                self._data.append(value.removeprefix(b" ").decode())
            except UnicodeDecodeError:
                raise ServerFault("stream: an event is not UTF-8") from None
        return ""


def read_piece(data: str) -> Piece:
    """The piece that an event's data tell of.

    Raises:
        ServerFault: they are no JSON object of the expected form, or an error's.
    """
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise ServerFault(f"stream: an event is not JSON: {data[:_SHOWN]!r}") from None
    if not isinstance(chunk, dict):
        raise ServerFault(f"stream: an event is no object: {data[:_SHOWN]!r}")
    if chunk.get("error"):
        raise ServerFault(f"stream: {error_text(chunk)}")
    choices = chunk.get("choices", [])
    if not isinstance(choices, list):
        raise ServerFault("stream: choices is no list")
    choice: dict[str, Any] = {}
    for candidate in choices:
        if isinstance(candidate, dict) and candidate.get("index", 0) == 0:
            choice = candidate
    usage = chunk.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    text = _text(delta, "content")
    thought = _text(delta, "reasoning_content") or _text(delta, "reasoning")
    finish = choice.get("finish_reason")
    return Piece(
        text=text,
        tokens=1 if text or thought else 0,
        finish="" if finish is None else str(finish)[:_SHOWN],
        stop_string=isinstance(choice.get("stop_reason", choice.get("matched_stop")), str),
        prompt_tokens=_count(usage, "prompt_tokens"),
        response_tokens=_count(usage, "completion_tokens"),
    )


def error_text(content: object) -> str:
    """The message of an error, in whichever of the usual places it is; a bounded line."""
    found = content
    for key in ("error", "message", "detail"):
        if isinstance(found, dict):
            found = found.get(key, found)
    return str(found)[:1000]


def _text(delta: dict[str, Any], name: str) -> str:
    text = delta.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ServerFault(f"stream: {name} is no text")
    return text


def _count(usage: dict[str, Any], name: str) -> int | None:
    count = usage.get(name)
    if isinstance(count, int) and 0 <= count <= _MOST_TOKENS:
        return count
    return None
