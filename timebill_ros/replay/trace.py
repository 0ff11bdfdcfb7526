# SPDX-License-Identifier: Apache-2.0
"""Tables of lengths: public arrival traces of language-model services, and earlier replays."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from std_msgs.msg import Header

import timebill_ros.msg as msg
from timebill_ros.node.conversions import duration_msg, time_msg
from timebill_ros.replay.recording import BadInput, Lengths, Recorded
from timebill_ros.runtime.clock import NS_PER_S

# Column names, in lower case without blanks and underscores: those of the Azure LLM inference
# traces first, then those of BurstGPT and of Vidur.
_TIMESTAMP = ("timestamp", "arrivedat")
_CONTEXT = ("contexttokens", "requesttokens", "numprefilltokens", "prompttokens")
_GENERATED = ("generatedtokens", "responsetokens", "numdecodetokens")
_PREDICTED = ("predictedtokens",)
# Traces that count seconds from 0 start here: in ROS the instant 0 means that there is no clock.
_START = 1.0
_FILLER = "car "  # a token of its own in the vocabularies that models have, the embedded one too
_EPOCH = datetime.fromtimestamp(0, UTC)
_LAST_NS = 2**31 * NS_PER_S  # what a message's stamp can carry

T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """The deadline that each request of a trace is given: ``base`` + ``per_token`` N, s."""

    base: float
    per_token: float

    def of(self, lengths: Lengths) -> float:
        """Seconds from release to deadline."""
        return self.base + self.per_token * lengths.response_tokens


def read_trace(path: Path, budget: Budget, *, filled: bool) -> list[Recorded]:
    """The requests of a trace as instructions, released when they arrived, in order of arrival.

    Timestamps are ISO 8601 (UTC where they say nothing else) or seconds. No prompt is in a trace:
    ``filled`` ones are that many words that say nothing, to be answered with at most as many
    tokens as were generated; others are a single word.

    Raises:
        BadInput: a line that cannot be read, or no line at all, by its number.
    """
    rows = []
    for read in _rows(path, _TIMESTAMP, _CONTEXT, _GENERATED):
        at_ns = read(_TIMESTAMP, _instant_ns)
        rows.append((at_ns, Lengths(read(_CONTEXT, _tokens), read(_GENERATED, _tokens))))
    if not rows:
        raise BadInput(f"{path}: a trace without a line of data")
    rows.sort(key=lambda row: row[0])
    digits = len(str(len(rows)))
    return [
        Recorded(
            at_ns,
            msg.Instruction(
                header=Header(stamp=time_msg(at_ns)),
                id=f"{position:0{digits}}",
                prompt=_FILLER * (lengths.prompt_tokens if filled else 1),
                budget=duration_msg(budget.of(lengths)),
                max_tokens=lengths.response_tokens if filled else 0,
            ),
            lengths,
        )
        for position, (at_ns, lengths) in enumerate(rows, 1)
    ]


def read_lengths(path: Path) -> dict[str, Lengths]:
    """Lengths by id: columns id, prompt_tokens, response_tokens and, if known, predicted_tokens.

    What a replay writes is such a table; lines of instructions that were never begun, with 0
    tokens or none, are passed over.

    Raises:
        BadInput: a line that cannot be read, by its number.
    """
    known = {}
    for read in _rows(path, ("id",), _CONTEXT, _GENERATED):
        prompt, response = read(_CONTEXT, _count), read(_GENERATED, _count)
        predicted = read(_PREDICTED, _count)
        if prompt and (length := max(response, predicted if _unfinished(read) else 0)):
            known[read(("id",), str)] = Lengths(prompt, length, predicted or None)
    return known


class Read(Protocol):
    """Reads one line of a table: the column of the first name that there is, "" without one."""

    def __call__(self, names: tuple[str, ...], convert: Callable[[str], T]) -> T:
        """What ``convert`` makes of the column's text."""


def _unfinished(read: Read) -> bool:
    """Whether the row tells that there was more to come: a replay's overrun, or cut short."""
    cut = read(("truncated",), str) == "True"
    return cut or read(("outcome",), str) not in ("", "in time", "late")


def _rows(path: Path, *needed: tuple[str, ...]) -> Iterator[Read]:
    """One reader a line; each of ``needed`` must be there, under any of its names."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.lower().replace("_", "").replace(" ", "") for name in next(reader, [])]
            for names in needed:
                if not set(names) & set(header):
                    raise BadInput(
                        f"{path}: line 1: no column {' or '.join(names)}; there are: "
                        f"{', '.join(header) or 'none'}"
                    )
            for cells in reader:
                if cells:
                    yield _reading(f"{path}: line {reader.line_num}", header, cells)
    except (OSError, UnicodeDecodeError, csv.Error) as failure:
        raise BadInput(f"{path}: cannot be read: {failure}") from failure


def _reading(place: str, header: list[str], cells: list[str]) -> Read:
    if len(cells) != len(header):
        raise BadInput(f"{place}: {len(cells)} columns where the first line has {len(header)}")

    def read(names: tuple[str, ...], convert: Callable[[str], T]) -> T:
        column = next((header.index(name) for name in names if name in header), None)
        text = "" if column is None else cells[column].strip()
        try:
            return convert(text)
        except (ValueError, OverflowError) as failure:
            raise BadInput(f"{place}: {names[0]}: {failure}") from None

    return read


def _tokens(text: str) -> int:
    value = int(text)
    if not 0 < value < 2**31:
        raise ValueError(f"{value} is not a positive number of tokens")
    return value


def _count(text: str) -> int:
    """A number of tokens, or 0 where there is none."""
    return _tokens(text) if text not in ("", "0") else 0


def _instant_ns(text: str) -> int:
    try:
        at_ns = round((_START + float(text)) * NS_PER_S)
    except ValueError:
        moment = datetime.fromisoformat(text)
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        at_ns = since // timedelta(microseconds=1) * 1000
    if not 0 < at_ns < _LAST_NS:
        raise ValueError(f"{text!r} is no time from 1970 to 2038")
    return at_ns
