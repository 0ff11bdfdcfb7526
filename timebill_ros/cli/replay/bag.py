# SPDX-License-Identifier: Apache-2.0
"""rosbag2 files of instructions and outcomes, sqlite3 and mcap, read without ROS's own rosbag2."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ament_index_python import get_package_share_directory
from rclpy.serialization import serialize_message
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from timebill_ros import msg
from timebill_ros.cli.replay.recording import BadInput, Lengths, Recorded, named
from timebill_ros.msg import Instruction, Overrun, Response

_PACKAGE = "timebill_ros/msg"
_INSTRUCTION, _RESPONSE, _OVERRUN = (
    f"{_PACKAGE}/{n}" for n in ("Instruction", "Response", "Overrun")
)
_OURS = "sequence<timebill_ros/"
# Fields of an instruction without which there is nothing to replay; others have a default.
_NEEDED = ("prompt",)
_FOREVER = QosTime(9223372036, 854775807)
_QOS = Qos(
    QosHistory.KEEP_LAST,
    1000,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    avoid_ros_namespace_conventions=False,
)


class Bag:
    """What a bag holds of ours, read once.

    Attributes:
        recorded: its instructions in order of recording, with the lengths its outcomes tell.
        storage: how it is stored, to write the next one alike.
        notes: what the reader should know: fields that this version does not have, or has more.
    """

    def __init__(self, path: Path, topic: str = "") -> None:
        """Read it; only the instructions of ``topic`` where that is given.

        Raises:
            BadInput: it cannot be read, or holds no instruction (the message lists its topics).
        """
        self.notes: list[str] = []
        self._path = path
        with self._reader() as reader:
            connections = list(reader.connections)
            mcap = path.suffix == ".mcap" or any(path.glob("*.mcap*"))
            self.storage = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
            chosen = [c for c in connections if topic in ("", c.topic)]
            instructions = list(self._messages(reader, chosen, _INSTRUCTION))
            outcomes = [
                pair
                for kind in (_RESPONSE, _OVERRUN)
                for pair in self._messages(reader, connections, kind)
            ]
        for pairs in (instructions, outcomes):
            pairs.sort(key=lambda pair: pair[0])
        if not instructions:
            raise BadInput(f"{path}: {_no_instruction(connections, topic)}")
        lengths = _lengths([outcome for _, outcome in outcomes])
        messages = [self._instruction(message) for _, message in instructions]
        self.recorded = [
            Recorded(at_ns, message, next(lengths.get(original.id, iter(())), None))
            for (at_ns, original), message in zip(instructions, named(messages), strict=True)
        ]

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        """An open reader; whatever it, or the bag's bytes under it, raises is bad input."""
        try:
            with Reader(self._path) as reader:
                yield reader
        except BadInput:
            raise
        except Exception as failure:
            # The storages and the compiled deserialisers raise whatever damaged bytes lead to.
            raise BadInput(
                f"{self._path}: not a rosbag2 that can be read: {type(failure).__name__}: {failure}"
            ) from failure

    def _messages(
        self, reader: Reader, connections: Sequence[Connection], kind: str
    ) -> Iterator[tuple[int, Any]]:
        """(recorded, message) of one type, read by the definition that the bag holds of it."""
        for connection in connections:
            if connection.msgtype == kind:
                store = _definitions(connection)
                for _, at_ns, raw in reader.messages([connection]):
                    yield at_ns, store.deserialize_cdr(raw, kind)

    def _instruction(self, recorded: Any) -> Instruction:
        """The message as it is now, from one of whatever version the bag holds."""
        instruction = Instruction()
        missing, unknown = _fill(instruction, recorded)
        if lacking := [name for name in _NEEDED if name in missing]:
            raise BadInput(f"{self._path}: its instructions have no field {', '.join(lacking)}")
        for what, names in (("lack", missing), ("have the unknown fields", unknown)):
            note = f"{self._path}: its instructions {what} {', '.join(names)}"
            end = ": taken as not set" if names is missing else ": left out"
            if names and note + end not in self.notes:
                self.notes.append(note + end)
        return instruction


class BagWriter:
    """Writes instructions, responses and overruns into a new bag, under the node's topics.

    The bag comes to be with its first message: a replay that cannot begin leaves nothing behind.

    Raises:
        BadInput: the path exists already.
    """

    def __init__(self, path: Path, storage: StoragePlugin, node: str) -> None:
        """Describe the bag; use as a context, so that it is complete."""
        if path.exists():
            raise BadInput(f"{path}: exists already, and a recording is never overwritten")
        self._writer = Writer(path, version=9, storage_plugin=storage)
        self._node = node
        self._connections: dict[type, Connection] = {}

    def write(self, at_ns: int, message: Instruction | Response | Overrun) -> None:
        """Add a message recorded at ``at_ns``."""
        if not self._connections:
            self._open()
        self._writer.write(self._connections[type(message)], at_ns, serialize_message(message))

    def _open(self) -> None:
        self._writer.open()
        store = installed_definitions()
        for kind, topic, name in (
            (Instruction, "input/instruction", _INSTRUCTION),
            (Response, "output/response", _RESPONSE),
            (Overrun, "output/overrun", _OVERRUN),
        ):
            self._connections[kind] = self._writer.add_connection(
                f"{self._node}/{topic}", name, typestore=store, offered_qos_profiles=[_QOS]
            )

    def __enter__(self) -> BagWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Complete the bag."""
        if self._connections:
            self._writer.close()


def installed_definitions() -> Typestore:
    """ROS 2's own types and the package's, from the definitions that it installs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = _share() / "msg"
    types: dict[str, Any] = {}
    for path in sorted(folder.glob("*.msg")):
        types |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{_PACKAGE}/{path.stem}")
    store.register(types)
    return store


def _share() -> Path:
    """The package's shared files; in an environment that is not sourced, those of this Python."""
    try:
        return Path(get_package_share_directory("timebill_ros"))
    except (OSError, LookupError):
        return Path(sys.prefix, "share", "timebill_ros")


def _definitions(connection: Connection) -> Typestore:
    """The types of one topic as its recorder knew them; ours where it kept none (before Iron)."""
    form, text = connection.msgdef
    if form is MessageDefinitionFormat.NONE:
        return installed_definitions()
    store = get_typestore(Stores.EMPTY)
    if form is MessageDefinitionFormat.IDL:
        store.register(get_types_from_idl(text))
    else:
        store.register(get_types_from_msg(text, connection.msgtype))
    return store


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
        if overrun and outcome.reason == Overrun.LATE:
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
    found = ", ".join(f"{c.topic} ({c.msgtype}, {c.msgcount})" for c in connections)
    at = f" at {topic}" if topic else ""
    return f"no {_INSTRUCTION}{at}; its topics are: {found or 'none'}"


def with_lengths(recorded: Sequence[Recorded], known: dict[str, Lengths]) -> list[Recorded]:
    """The same, where ``known`` by id wins over what was recorded."""
    return [replace(r, lengths=known.get(r.instruction.id, r.lengths)) for r in recorded]
