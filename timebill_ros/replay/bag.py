# SPDX-License-Identifier: Apache-2.0
"""rosbag2 files of instructions and outcomes, sqlite3 and mcap, read without ROS's own rosbag2."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin

import timebill_ros.msg as msg
from timebill_ros.node.conversions import nanoseconds
from timebill_ros.replay.bag_files import (
    INSTRUCTION,
    OVERRUN,
    RESPONSE,
    BagFiles,
    definitions_of,
    open_bag,
)
from timebill_ros.replay.recording import BadInput, Lengths, Recorded, named
from timebill_ros.runtime.clock import NS_PER_S

_OURS = "sequence<timebill_ros/"
# Fields of an instruction without which there is nothing to replay; others have a default.
_NEEDED = ("prompt",)
# A stamp this far from its recording is of another clock: no budget is that long.
_DAY_NS = 86_400 * NS_PER_S


class Bag:
    """What a bag holds of ours, read once.

    Attributes:
        recorded: its instructions in order of recording, or of their stamps, with the lengths its
            outcomes tell.
        storage: how it is stored, to write the next one alike.
        notes: what the reader should know: what a killed recorder left out; fields that this
            version does not have, or has more; stamps of another clock than the recording's.
    """

    def __init__(self, path: Path, topic: str = "", *, by_stamp: bool = False) -> None:
        """Read it.

        Args:
            path: of the bag.
            topic: only the instructions of this one, where it is given.
            by_stamp: whether they are due at their own stamps instead of when they were recorded.

        Raises:
            BadInput: it cannot be read, holds no instruction (the message lists its topics), or one
                without the stamp that is asked for.
        """
        self.notes: list[str] = []
        self._path = path
        with self._files() as files:
            connections = files.connections
            mcap = any(reader.path.suffix == ".mcap" for reader in files.readers)
            self.storage = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
            instructions = list(_messages(files, INSTRUCTION, topic))
            outcomes = [pair for kind in (RESPONSE, OVERRUN) for pair in _messages(files, kind)]
            self.notes += files.notes
        for pairs in (instructions, outcomes):
            pairs.sort(key=lambda pair: pair[0])
        if not instructions:
            raise BadInput(
                "; ".join([f"{path}: {_no_instruction(connections, topic)}", *self.notes])
            )
        lengths = _lengths([outcome for _, outcome in outcomes])
        messages = [self._instruction(message) for _, message in instructions]
        self.recorded = [
            Recorded(at_ns, message, next(lengths.get(original.id, iter(())), None))
            for (at_ns, original), message in zip(instructions, named(messages), strict=True)
        ]
        if by_stamp:
            self.recorded = self._by_stamp()
        self._note_other_clocks()

    @contextmanager
    def _files(self) -> Iterator[BagFiles]:
        """The bag's open files. Whatever reading them raises becomes ``BadInput``."""
        try:
            with open_bag(self._path) as files:
                yield files
        except BadInput:
            raise
        except Exception as failure:
            # The storages and the compiled deserialisers raise whatever damaged bytes lead to.
            raise BadInput(
                f"{self._path}: not a rosbag2 that can be read: {type(failure).__name__}: {failure}"
            ) from failure

    def _by_stamp(self) -> list[Recorded]:
        """The recorded instructions at their stamps, in the stamps' order."""
        stamped = []
        for item in self.recorded:
            stamp_ns = nanoseconds(item.instruction.header.stamp)
            if stamp_ns <= 0:
                name = item.instruction.id
                raise BadInput(f"{self._path}: --by-stamp: the instruction {name!r} has no stamp")
            stamped.append(replace(item, at_ns=stamp_ns))
        return sorted(stamped, key=lambda item: item.at_ns)

    def _note_other_clocks(self) -> None:
        foreign = 0
        for item in self.recorded:
            stamp_ns = nanoseconds(item.instruction.header.stamp)
            foreign += stamp_ns > 0 and abs(item.at_ns - stamp_ns) > _DAY_NS
        if foreign:
            self.notes.append(
                f"{self._path}: {foreign} stamps lie more than a day from their recording, so that "
                "deadlines cannot be met: replay with --by-stamp, or record simulated time with "
                "`ros2 bag record --use-sim-time`"
            )

    def _instruction(self, recorded: Any) -> msg.Instruction:
        """The message as it is now, from one of whatever version the bag holds."""
        instruction = msg.Instruction()
        missing, unknown = _fill(instruction, recorded)
        if lacking := [name for name in _NEEDED if name in missing]:
            raise BadInput(f"{self._path}: its instructions have no field {', '.join(lacking)}")
        for what, names in (("lack", missing), ("have the unknown fields", unknown)):
            note = f"{self._path}: its instructions {what} {', '.join(names)}"
            end = ": taken as not set" if names is missing else ": left out"
            if names and note + end not in self.notes:
                self.notes.append(note + end)
        return instruction


def _messages(files: BagFiles, kind: str, topic: str = "") -> Iterator[tuple[int, Any]]:
    """(recorded, message) of one type, read by the definition that its file holds of it."""
    for connection, messages in files.topics(kind, topic):
        store = definitions_of(connection)
        for at_ns, raw in messages:
            yield at_ns, store.deserialize_cdr(raw, kind)


def _fill(target: Any, source: Any) -> tuple[list[str], list[str]]:
    """Set a message's fields from another's; the names the other lacks, and those only it has.

    Raises:
        BadInput: a field has another type than ours.
    """
    fields = target.get_fields_and_field_types()
    missing = [name for name in fields if not hasattr(source, name)]
    unknown = [name for name in vars(source) if name not in fields and not name.isupper()]
    unknown = [name for name in unknown if not name.startswith("_")]
    for name, kind in fields.items():
        if name in missing:
            continue
        value, default = getattr(source, name), getattr(target, name)
        if hasattr(default, "get_fields_and_field_types") and hasattr(value, "__msgtype__"):
            _fill(default, value)
        elif kind.startswith(_OURS):
            element = getattr(msg, kind.removeprefix(_OURS).rstrip(">"))
            setattr(target, name, [_filled(element(), one) for one in value])
        elif isinstance(default, array) and hasattr(value, "tolist"):
            setattr(target, name, value.tolist())  # numbers, which rosbags gives as NumPy's
        elif type(value) is type(default):
            setattr(target, name, value)
        else:
            raise BadInput(f"field {name}: it is no {kind} in the bag")
    return missing, unknown


def _filled(target: Any, source: Any) -> Any:
    _fill(target, source)
    return target


def _lengths(outcomes: Sequence[Any]) -> dict[str, Iterator[Lengths | None]]:
    """By recorded id, the lengths that its terminal outcomes tell, in their order.

    A response tells its own length. An overrun that had a plan, or a truncated response, tells
    the predicted one, or one token more than it had made by then where that is more; the others
    tell nothing.
    """
    told: dict[str, list[Lengths | None]] = {}
    for outcome in outcomes:
        overrun = hasattr(outcome, "reason")
        if overrun and outcome.reason == msg.Overrun.LATE:
            continue
        plan, tokens = outcome.plan, outcome.response_tokens
        if overrun or getattr(outcome, "truncated", False):
            tokens = max(plan.predicted_tokens, tokens + 1)
        known = None
        if plan.prompt_tokens:
            known = Lengths(plan.prompt_tokens, max(1, tokens), plan.predicted_tokens or None)
        told.setdefault(outcome.id, []).append(known)
    return {name: iter(lengths) for name, lengths in told.items()}


def _no_instruction(connections: Sequence[Connection], topic: str) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for each in connections:
        counts[each.topic, each.msgtype] += each.msgcount
    found = ", ".join(f"{name} ({kind}, {count})" for (name, kind), count in counts.items())
    at = f" at {topic}" if topic else ""
    return f"no {INSTRUCTION}{at}; its topics are: {found or 'none'}"


def with_lengths(recorded: Sequence[Recorded], known: dict[str, Lengths]) -> list[Recorded]:
    """The same, where ``known`` by id wins over what was recorded."""
    return [replace(r, lengths=known.get(r.instruction.id, r.lengths)) for r in recorded]
