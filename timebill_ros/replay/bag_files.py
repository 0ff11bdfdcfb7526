# SPDX-License-Identifier: Apache-2.0
"""The storage files of a rosbag2, read and written, and the types of their messages.

Each file is read for itself and made whole first. A recorder that was killed leaves no
metadata.yaml, an mcap file without its end, or an sqlite3 file beside its journal; `ros2 bag
reindex` then writes a metadata.yaml whose QoS profiles are not the files'. So metadata.yaml only
says which files belong to the bag, and the files everything else.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from ament_index_python import get_package_share_directory
from backports import zstd
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

import timebill_ros.msg as msg
from timebill_ros.replay.recording import BadInput

_TYPES = "timebill_ros/msg"
INSTRUCTION, RESPONSE, OVERRUN = (f"{_TYPES}/{n}" for n in ("Instruction", "Response", "Overrun"))


def installed_definitions() -> Typestore:
    """ROS 2's own types and the package's, from the definitions that it installs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = _share() / "msg"
    types: dict[str, Any] = {}
    for path in sorted(folder.glob("*.msg")):
        types |= get_types_from_msg(path.read_text(encoding="utf-8"), f"{_TYPES}/{path.stem}")
    store.register(types)
    return store


def _share() -> Path:
    """The package's shared files; in an environment that is not sourced, those of this Python."""
    try:
        return Path(get_package_share_directory("timebill_ros"))
    except (OSError, LookupError):
        return Path(sys.prefix, "share", "timebill_ros")


def definitions_of(connection: Connection) -> Typestore:
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


_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
# How every zstd frame begins. CDR begins with a zero, whatever its encapsulation.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

# mcap: magic, records of opcode and length, magic (https://mcap.dev/spec).
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_MCAP_RECORD = struct.Struct("<BQ")
_FOOTER, _DATA_END = 0x02, 0x0F
# The end of a file without summary: a reader goes through all records then. 0 is no checksum.
_MCAP_END = (
    _MCAP_RECORD.pack(_DATA_END, 4)
    + struct.pack("<I", 0)
    + _MCAP_RECORD.pack(_FOOTER, 20)
    + struct.pack("<QQI", 0, 0, 0)
    + _MCAP_MAGIC
)


@dataclass(frozen=True)
class BagFiles:
    """The open files of one bag.

    Attributes:
        readers: one per storage file.
        notes: what is missing, which the user should know.
    """

    readers: list[Reader]
    notes: list[str]

    @property
    def connections(self) -> list[Connection]:
        """The topics of all files; each file has its own."""
        return [connection for reader in self.readers for connection in reader.connections]

    def topics(
        self, kind: str, name: str = ""
    ) -> Iterator[tuple[Connection, Iterator[tuple[int, bytes]]]]:
        """Each topic of one type, or only the one of this name, and its messages."""
        for reader in self.readers:
            for connection in reader.connections:
                if connection.msgtype == kind and name in ("", connection.topic):
                    # Alone: without an index, an mcap file has only each topic's own in order.
                    yield connection, _messages(reader, connection)


def _messages(reader: Reader, connection: Connection) -> Iterator[tuple[int, bytes]]:
    """(recorded, CDR)."""
    for _, at_ns, raw in reader.messages([connection]):
        # As of --compression-mode message; reindexed metadata does not tell it.
        yield at_ns, zstd.decompress(raw) if raw.startswith(_ZSTD_MAGIC) else raw


@contextmanager
def open_bag(path: Path) -> Iterator[BagFiles]:
    """Open a bag's folder, or one of its files; copies of what has to be mended go with it.

    Raises:
        BadInput: a file is missing, or nothing has been written to any.
        Exception: what yaml and the storages raise of damaged bytes.
    """
    notes: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        whole = [_whole(file, scratch, notes) for file in _storage_files(path, notes)]
        yield BagFiles([stack.enter_context(Reader(file)) for file in whole], notes)


def _storage_files(path: Path, notes: list[str]) -> list[Path]:
    if not path.is_dir():
        return [path]
    metadata = path / "metadata.yaml"
    if metadata.exists() and metadata.stat().st_size:  # empty where the power went
        information = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
        files = [path / PurePath(name).name for name in information["relative_file_paths"]]
    else:
        notes.append(f"{path}: no metadata.yaml, as if its recorder had been killed")
        files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
        if not files:
            raise BadInput(f"{path}: not a rosbag2 that can be read: no .mcap or .db3 file in it")
    if missing := [file.name for file in files if not file.exists()]:
        raise BadInput(f"{path}: {', '.join(missing)} of its metadata.yaml is not there")
    # mcap is written in chunks of 768 KiB, and the next file of a split made before its first.
    if not (written := [file for file in files if file.stat().st_size]):
        raise BadInput(f"{path}: nothing had been written to it before its recorder ended")
    return written


def _whole(file: Path, scratch: Path, notes: list[str]) -> Path:
    """The file, or a mended copy of it."""
    if file.suffix == ".zstd":  # --compression-mode file
        target = scratch / file.stem
        with zstd.open(file, "rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        return target
    if file.suffix == ".mcap" and not _has_end(file):
        notes.append(f"{file}: its end is missing: only what was written before is read")
        return _with_end(file, scratch / file.name)
    journals = [file.with_name(file.name + end) for end in ("-wal", "-journal")]
    if file.suffix == ".db3" and (left := [each for each in journals if each.exists()]):
        return _recovered(file, left, scratch / file.name)
    return file


def _has_end(file: Path) -> bool:
    with file.open("rb") as source:
        source.seek(max(0, file.stat().st_size - len(_MCAP_MAGIC)))
        return source.read() == _MCAP_MAGIC


def _with_end(file: Path, target: Path) -> Path:
    """A copy of all whole records before the end, and an end after them."""
    size = file.stat().st_size
    end = len(_MCAP_MAGIC)
    with file.open("rb") as source:
        while end + _MCAP_RECORD.size <= size:
            source.seek(end)
            opcode, length = _MCAP_RECORD.unpack(source.read(_MCAP_RECORD.size))
            after = end + _MCAP_RECORD.size + length
            if after > size or opcode in (_DATA_END, _FOOTER):
                break
            end = after
    shutil.copyfile(file, target)
    with target.open("r+b") as copy:
        copy.truncate(end)
        copy.seek(end)
        copy.write(_MCAP_END)
    return target


def _recovered(file: Path, journals: list[Path], target: Path) -> Path:
    """A copy with what sqlite3 still finds in the journals: rosbags looks at the file alone."""
    for each in (file, *journals):
        shutil.copyfile(each, target.with_name(each.name))
    with closing(sqlite3.connect(target)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    return target


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

    def write(self, at_ns: int, message: msg.Instruction | msg.Response | msg.Overrun) -> None:
        """Add a message recorded at ``at_ns``."""
        if not self._connections:
            self._open()
        self._writer.write(self._connections[type(message)], at_ns, serialize_message(message))

    def _open(self) -> None:
        self._writer.open()
        store = installed_definitions()
        for kind, topic, name in (
            (msg.Instruction, "input/instruction", INSTRUCTION),
            (msg.Response, "output/response", RESPONSE),
            (msg.Overrun, "output/overrun", OVERRUN),
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
