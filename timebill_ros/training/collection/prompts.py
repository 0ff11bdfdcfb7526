# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timebill_ros.engine.conversation import ROLES, Conversation, Turn
from timebill_ros.predictor.errors import BadLine


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer, and where it comes from, for messages about it."""

    source: str
    conversation: Conversation


def read_prompts(path: Path, *, chat_template: bool) -> Iterator[Prompt]:
    """Read one JSON object per line: ``prompt``, with ``system`` or without, or ``messages``.

    ``messages`` are objects with ``role`` and ``content``: a system message or none, the earlier
    turns, and last the user's turn to answer. They need a target with a ``chat_template``, which
    tells turns apart. Other fields are left alone, and so are blank lines.

    Raises:
        BadLine: a line is no such object.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                conversation = conversation_of(json.loads(raw), chat_template=chat_template)
            except UnicodeDecodeError as error:
                raise BadLine(path, number, f"not UTF-8 ({error.reason})") from error
            except json.JSONDecodeError as error:
                raise BadLine(path, number, f"not JSON ({error})") from error
            except ValueError as error:
                raise BadLine(path, number, str(error)) from error
            yield Prompt(f"{path}, line {number}", conversation)


def conversation_of(content: Any, *, chat_template: bool) -> Conversation:
    """The conversation of one line's object.

    Raises:
        ValueError: says which field is missing or what is wrong with it.
    """
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if "messages" not in content:
        return Conversation(_text(content, "system", ""), _text(content, "prompt"))
    if not chat_template:
        raise ValueError(
            "field messages needs a target with a chat template; give system and prompt instead"
        )
    messages = content["messages"]
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise ValueError("field messages is not a list of objects with role and content")
    turns = [Turn(_text(message, "role"), _text(message, "content")) for message in messages]
    system = turns.pop(0).content if turns and turns[0].role == "system" else ""
    strange = [turn.role for turn in turns if turn.role not in ROLES]
    if strange:
        raise ValueError(f"field messages: role {strange[0]!r} is none of {', '.join(ROLES)}")
    if not turns or turns[-1].role != "user":
        raise ValueError("field messages does not end with a message of the user")
    return Conversation(system, turns[-1].content, tuple(turns[:-1]))


def _text(content: dict[str, Any], field: str, default: str | None = None) -> str:
    value = content.get(field, default)
    if value is None:
        raise ValueError(f"field {field} is missing")
    if not isinstance(value, str):
        raise ValueError(f"field {field} is {value!r}, not text")
    if default is None and not value.strip():
        raise ValueError(f"field {field} is blank")
    return value
