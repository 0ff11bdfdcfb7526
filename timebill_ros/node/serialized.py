# SPDX-License-Identifier: Apache-2.0
"""Looks at a serialized instruction before it is taken apart into Python's values.

Taking a message of a million turns apart takes seconds, in which no callback runs. And where a
string holds a NUL, rclpy ends it there without a word. Both can be seen in the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

import timebill_ros.msg as msg
from timebill_ros.engine.request import MOST_STOPS

# Most earlier turns of a conversation. Each costs Python objects, its template's text and tokens.
MOST_TURNS = 1000

# Most entries of each list.
_MOST = {"messages": MOST_TURNS, "stop": MOST_STOPS, "seed": 1, "temperature": 1, "top_p": 1}

# What an instruction may hold beside its prompt: id, frame, schema, lengths and padding, bytes.
_BESIDE_PROMPT = 2**20
# Longest character in UTF-8, bytes.
_CHARACTER = 4
# The encapsulation header of the Common Data Representation, whose second byte's lowest bit says
# little-endian; alignment counts from behind it.
_ENCAPSULATION = 4


@dataclass(frozen=True)
class RefusedBytes:
    """Why an instruction is not taken apart, and what is needed to say so.

    Attributes:
        message: its header and id alone.
        detail: the field and the bound.
    """

    message: msg.Instruction
    detail: str


def refusal_of(serialized: bytes, max_prompt_chars: int) -> RefusedBytes | None:
    """Why these bytes are refused as an instruction; None where they may be deserialized.

    Args:
        serialized: the message as the middleware received it.
        max_prompt_chars: a prompt of more characters cannot fit the model's context.

    Raises:
        ValueError: they are no instruction.
    """
    try:
        reader = _Reader(serialized)
        sec, nanosec = reader.integers("iI")
        frame_id, id = reader.string(), reader.string()
        message = msg.Instruction(
            header=Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=_shown(frame_id)),
            id=_shown(id),
        )
        fault = size_fault(len(serialized), max_prompt_chars)
        for name, text in () if fault else (("id", id), *_texts(reader)):
            fault = count_fault(name, text) if isinstance(text, int) else _nul_fault(name, text)
            if fault:
                break
    except (struct.error, IndexError, AssertionError) as error:
        raise ValueError(f"an instruction of {len(serialized)} bytes breaks off") from error
    return RefusedBytes(message, fault) if fault else None


def size_fault(size: int, max_prompt_chars: int) -> str | None:
    """The fault of an instruction of so many bytes; None where the model's context may take it."""
    most = _CHARACTER * max_prompt_chars + _BESIDE_PROMPT
    if size <= most:
        return None
    return (
        f"prompt: an instruction of {size} bytes is longer than the {most} that can fit the "
        "model's context"
    )


def _nul_fault(field: str, text: bytes) -> str | None:
    """The fault of a text that a NUL cuts; None where there is none."""
    position = text.find(b"\0")
    return None if position < 0 else f"{field}: byte {position} is NUL, where a ROS string ends"


def count_fault(field: str, count: int) -> str | None:
    """The fault of a list of so many entries; None where they are not too many."""
    most = _MOST[field]
    if count <= most:
        return None
    what = "turns" if field == "messages" else "values"
    return f"{field}: {count} {what} are more than the {most} that are taken"


def _texts(reader: _Reader) -> Iterator[tuple[str, bytes | int]]:
    """The texts behind the id, in their order.

    Where a list is too long, the last is that list's name and its number of entries.
    """
    yield "system", reader.string()
    yield "prompt", reader.string()
    reader.integers("iIiII")  # budget, deadline, max_tokens
    (turns,) = reader.integers("I")
    if count_fault("messages", turns):
        yield "messages", turns
        return
    for number in range(turns):
        yield f"messages[{number}].role", reader.string()
        yield f"messages[{number}].content", reader.string()
    yield "response_schema", reader.string()
    (count,) = reader.integers("I")
    if count_fault("stop", count):
        yield "stop", count
        return
    for number in range(count):
        yield f"stop[{number}]", reader.string()
    for field in ("seed", "temperature", "top_p"):
        (count,) = reader.integers("I")
        if count_fault(field, count):
            yield field, count
            return
        reader.integers("I" * count)  # the number, also of four bytes
    yield "fallback_text", reader.string()


class _Reader:
    """Reads fields of four bytes and strings, one after another."""

    def __init__(self, serialized: bytes) -> None:
        self._order = "<" if serialized[1] & 1 else ">"
        self._bytes = serialized
        self._position = _ENCAPSULATION

    def integers(self, kinds: str) -> tuple[int, ...]:
        """Fields of the ``struct`` module's kinds i and I."""
        start = self._position + -self._position % 4
        self._position = start + 4 * len(kinds)
        return struct.unpack_from(self._order + kinds, self._bytes, start)

    def string(self) -> bytes:
        """A string's bytes, without the NUL that ends it."""
        (length,) = self.integers("I")
        end = self._position + length
        if end > len(self._bytes):
            raise IndexError
        text = self._bytes[self._position : max(end - 1, self._position)]
        self._position = end
        return text


def _shown(text: bytes) -> str:
    """A text of others as far as it can be sent on."""
    return text.replace(b"\0", "\N{REPLACEMENT CHARACTER}".encode()).decode("utf-8", "replace")
