# SPDX-License-Identifier: Apache-2.0
"""Prompts to collect lengths for: from a file of one's own, or from public data sets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timebill_ros.engine.request import ROLES, Conversation, Turn
from timebill_ros.predictor.errors import BadLine, PairsError


class SourceUnavailable(PairsError):
    """A data set that is neither there nor to be had."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"data set {name!r} cannot be read: {reason}")


class UnknownSchema(PairsError):
    """A data set whose columns say nothing about prompts."""

    def __init__(self, name: str, columns: Iterable[str], known: Iterable[str]) -> None:
        super().__init__(
            f"data set {name!r} has the columns {', '.join(sorted(columns)) or '(none)'}; "
            f"known are {'; '.join(known)}"
        )


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


Row = Mapping[str, Any]
# ``datasets`` runs no loading scripts any more; this set has one, over an archive of JSON lines.
ARCHIVES = {
    "THUDM/LongBench": "zip://data/{subset}.jsonl::hf://datasets/THUDM/LongBench/data.zip",
}
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Schema:
    """Columns that tell a kind of data set, and how a row asks."""

    name: str
    columns: frozenset[str]
    conversation: Callable[[Row, Mapping[str, str]], Conversation]


def arena_prompt(row: Row, _templates: Mapping[str, str]) -> Conversation:
    """What the user said first; later turns answer what other models said."""
    first = next((turn for turn in row["conversation_a"] if turn["role"] == "user"), None)
    return Conversation("", "" if first is None else first["content"])


def longbench_prompt(row: Row, templates: Mapping[str, str]) -> Conversation:
    """Context and question in the task's words, or one after the other where it has none."""
    template = templates.get(row["dataset"], "{context}\n\n{input}")
    # Not str.format: contexts and templates are full of braces.
    before, _, after = template.partition("{context}")
    before, after = (part.replace("{input}", row["input"]) for part in (before, after))
    return Conversation("", f"{before}{row['context']}{after}".strip())


SCHEMAS = (
    Schema(
        "lmarena-ai/arena-human-preference-100k",
        frozenset({"conversation_a", "conversation_b", "winner"}),
        arena_prompt,
    ),
    Schema("THUDM/LongBench", frozenset({"context", "input", "dataset"}), longbench_prompt),
)


def read_public_set(
    name: str,
    *,
    subsets: Sequence[str] = (),
    split: str = "train",
    templates: Mapping[str, str] | None = None,
) -> Iterator[Prompt]:
    """The prompts of a data set in one of the ``SCHEMAS``.

    Args:
        name: hub id; or a local file (JSON lines, JSON, parquet) or folder.
        subsets: configurations, one after the other, where a set has several.
        split: which part of each.
        templates: wording per LongBench task, see ``read_templates``.

    Raises:
        SourceUnavailable: no such set, or no hub, or ``datasets`` is not installed.
        UnknownSchema: its columns are none of the known.
    """
    for subset in subsets or (None,):
        rows = _load(name, subset, split)
        schema = _schema(name, rows.column_names)
        label = f"{name} {subset or ''}".strip()
        for number, row in enumerate(rows, start=1):
            yield Prompt(f"{label}, row {number}", schema.conversation(row, templates or {}))


def read_templates(path: Path) -> dict[str, str]:
    """Wording per task with ``{context}`` and ``{input}``, as LongBench's dataset2prompt.json.

    Raises:
        SourceUnavailable: no JSON object of texts that name ``{context}``.
    """
    try:
        templates: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        bad = [task for task, text in templates.items() if "{context}" not in text]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SourceUnavailable(str(path), f"not an object of templates ({error})") from error
    if bad:
        raise SourceUnavailable(str(path), f"{bad[0]!r} does not say where {{context}} goes")
    return templates


def _schema(name: str, columns: Iterable[str]) -> Schema:
    found = frozenset(columns)
    for schema in SCHEMAS:
        if schema.columns <= found:
            return schema
    known = (f"{', '.join(sorted(schema.columns))} ({schema.name})" for schema in SCHEMAS)
    raise UnknownSchema(name, found, known)


def _load(name: str, subset: str | None, split: str) -> Any:
    """The rows, as ``datasets.Dataset``."""
    try:
        import datasets
    except ImportError as error:
        reason = "datasets is not installed (requirements/train.txt)"
        raise SourceUnavailable(name, reason) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    path = Path(name).expanduser()
    if name in ARCHIVES and subset is None and not path.is_file():
        raise SourceUnavailable(name, "it has a subset per task; name one or more")
    try:
        if path.is_file():
            kind = _FORMATS.get(path.suffix, "json")
            return datasets.load_dataset(kind, data_files=str(path), split="train")
        if name in ARCHIVES:
            files = ARCHIVES[name].format(subset=subset)
            return datasets.load_dataset("json", data_files=files, split="train")
        where = str(path) if path.is_dir() else name
        return datasets.load_dataset(where, subset, split=split)
    except Exception as error:  # the library raises many kinds, down to plain Exception
        reason = next(iter(str(error).strip().splitlines()), "")
        raise SourceUnavailable(name, f"{type(error).__name__}: {reason}") from error
