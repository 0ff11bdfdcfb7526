# SPDX-License-Identifier: Apache-2.0
"""New rosbag2 files of instructions and their outcomes."""

from __future__ import annotations

from pathlib import Path

from rclpy.serialization import serialize_message
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.replay.definitions import (
    INSTRUCTION,
    OVERRUN,
    RESPONSE,
    installed_definitions,
)
from timebill_ros.replay.recording import BadInput

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

    def write(self, at_ns: int, message: Instruction | Response | Overrun) -> None:
        """Add a message recorded at ``at_ns``."""
        if not self._connections:
            self._open()
        self._writer.write(self._connections[type(message)], at_ns, serialize_message(message))

    def _open(self) -> None:
        self._writer.open()
        store = installed_definitions()
        for kind, topic, name in (
            (Instruction, "input/instruction", INSTRUCTION),
            (Response, "output/response", RESPONSE),
            (Overrun, "output/overrun", OVERRUN),
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
