# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 of instructions: written, read back, and replayed as it was recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from ament_index_python import get_package_share_directory
from rclpy.clock import Clock
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from std_msgs.msg import Header

from timebill_ros.cli.client import InstructionClient
from timebill_ros.msg import Instruction
from timebill_ros.node.conversions import duration_msg, nanoseconds, time_msg
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.workload.tasks import sample_family, sample_task

Recorded = tuple[int, Instruction]
"""An instruction and the instant of ROS time, ns, at which it was recorded."""

SIZE = 20
# The recorded instructions that a node cannot serve: without a prompt, and past its deadline.
EMPTY, OVERDUE = "i5", "i9"
TYPE = "timebill_ros/msg/Instruction"
# As an event topic's publisher offers it.
_FOREVER = QosTime(9223372036, 854775807)
_QOS = Qos(
    QosHistory.KEEP_LAST,
    100,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    avoid_ros_namespace_conventions=False,
)
_TICK = 0.01  # s
_LEAD = 0.2  # s that the replay starts before its first instruction


def draw_recording(start_ns: int) -> list[Recorded]:
    """Instructions about driving scenes within some seconds, with budgets from 20 ms to 5 s."""
    rng = np.random.default_rng(20)
    recorded_ns = start_ns
    recording = []
    for number in range(SIZE):
        task = sample_task(rng, sample_family(rng), int(rng.integers(60, 1500)))
        budget = math.exp(rng.uniform(math.log(0.02), math.log(5.0)))
        instruction = Instruction(
            header=Header(stamp=time_msg(recorded_ns), frame_id="base_link"),
            id=f"i{number}",
            system=task.system,
            prompt=task.instruction,
            budget=duration_msg(budget),
        )
        if instruction.id == EMPTY:
            instruction.prompt = ""
        if instruction.id == OVERDUE:
            instruction.deadline = time_msg(recorded_ns - NS_PER_S)
        recording.append((recorded_ns, instruction))
        recorded_ns += round(rng.exponential(0.15) * NS_PER_S)
    return recording


def write_bag(path: Path, plugin: StoragePlugin, topic: str, recording: Sequence[Recorded]) -> None:
    """Write a rosbag2 as `ros2 bag record` would."""
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection(
            topic, TYPE, typestore=_typestore(), offered_qos_profiles=[_QOS]
        )
        for recorded_ns, instruction in recording:
            writer.write(connection, recorded_ns, serialize_message(instruction))


def read_bag(path: Path) -> Iterator[Recorded]:
    """The recorded instructions in order of recording."""
    with Reader(path) as reader:
        for connection, recorded_ns, raw in reader.messages():
            if connection.msgtype == TYPE:
                yield recorded_ns, deserialize_message(raw, Instruction)


def replay(
    client: InstructionClient,
    recording: Sequence[Recorded],
    *,
    stamp: Callable[[Instruction], None] = lambda instruction: None,
    tick: Callable[[int], None] = lambda now_ns: None,
    patience: float,
) -> bool:
    """Send what was recorded at its recorded pace, like `ros2 bag play`; whether all of it ended.

    Args:
        client: sends, and takes the answers meanwhile.
        recording: what a bag holds.
        stamp: called with every instruction when it is due.
        tick: called with the recorded time, ns, every 10 ms from a moment before the first
            instruction until all have ended, as ``--clock`` publishes it.
        patience: s to wait for the answers after the last instruction.
    """
    offset_ns = recording[0][0] - time.monotonic_ns() - round(_LEAD * NS_PER_S)
    for recorded_ns, instruction in recording:
        while (now_ns := time.monotonic_ns() + offset_ns) < recorded_ns:
            tick(now_ns)
            client.spin(min(_TICK, (recorded_ns - now_ns) / NS_PER_S))
        stamp(instruction)
        client.send(instruction)
    end = time.monotonic() + patience
    while not (ended := client.wait_for_all(_TICK)) and time.monotonic() < end:
        tick(time.monotonic_ns() + offset_ns)
    return ended


def restamp(instruction: Instruction) -> None:
    """Release the instruction now, on the system's clock; its deadline moves with the release."""
    now_ns = Clock().now().nanoseconds
    shift_ns = now_ns - nanoseconds(instruction.header.stamp)
    instruction.header.stamp = time_msg(now_ns)
    if nanoseconds(instruction.deadline):
        instruction.deadline = time_msg(nanoseconds(instruction.deadline) + shift_ns)


def _typestore() -> Typestore:
    """ROS 2's own types and the package's, from the definitions that it installs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    folder = Path(get_package_share_directory("timebill_ros"), "msg")
    for path in folder.glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"timebill_ros/msg/{path.stem}"))
    return store
