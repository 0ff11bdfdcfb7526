# SPDX-License-Identifier: Apache-2.0
"""Bags of ROS's own rosbag2, where it is installed: it is on no package index for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import StoragePlugin

from test.replay.recordings import answer, recorded, write
from timebill_ros.msg import Instruction
from timebill_ros.replay.bag import Bag
from timebill_ros.replay.bag_files import INSTRUCTION

rosbag2_py: Any = pytest.importorskip(
    "rosbag2_py", reason="rosbag2 comes with ROS 2, not from PyPI"
)

TOPIC = "/llm/input/instruction"
STORAGES = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}
ITEMS = [recorded(f"{k}", 0.1 * k, lengths=None, prompt="word " * 2000) for k in range(30)]

each_storage = pytest.mark.parametrize("storage", STORAGES)


def record(path: Path, storage: str, compression: str) -> Path:
    """The instructions in several files, as `ros2 bag record` splits and compresses them."""
    writer = rosbag2_py.SequentialWriter()
    if compression != "none":
        mode = rosbag2_py.compression_mode_from_string(compression)
        writer = rosbag2_py.SequentialCompressionWriter(
            rosbag2_py.CompressionOptions("zstd", mode, 0, 1)
        )
    options = rosbag2_py.StorageOptions(uri=str(path), storage_id=storage, max_bagfile_size=100_000)
    writer.open(options, rosbag2_py.ConverterOptions("cdr", "cdr"))
    writer.create_topic(
        rosbag2_py.TopicMetadata(id=0, name=TOPIC, type=INSTRUCTION, serialization_format="cdr")
    )
    for item in ITEMS:
        writer.write(TOPIC, serialize_message(item.instruction), item.at_ns)
    del writer  # which closes it: the compressing one has no close()
    return path


@each_storage
@pytest.mark.parametrize("compression", ["none", "file", "message"])
def test_what_it_writes_is_read(tmp_path: Path, storage: str, compression: str) -> None:
    bag = Bag(record(tmp_path / "bag", storage, compression))
    assert bag.recorded == ITEMS
    assert bag.storage is STORAGES[storage]
    assert bag.notes == []


@each_storage
def test_what_it_reindexes_is_read(tmp_path: Path, storage: str) -> None:
    path = record(tmp_path / "bag", storage, "none")
    (path / "metadata.yaml").unlink()
    rosbag2_py.Reindexer().reindex(rosbag2_py.StorageOptions(uri=str(path), storage_id=storage))
    assert (path / "metadata.yaml").exists()
    assert Bag(path).recorded == ITEMS


@each_storage
def test_it_reads_what_replay_writes(tmp_path: Path, storage: str) -> None:
    path = write(tmp_path / "bag", ITEMS, [answer("0")], STORAGES[storage])
    reader = rosbag2_py.SequentialReader()
    reader.open(
        rosbag2_py.StorageOptions(uri=str(path), storage_id=storage),
        rosbag2_py.ConverterOptions("cdr", "cdr"),
    )
    read = []
    while reader.has_next():
        topic, raw, at_ns = reader.read_next()
        if topic == TOPIC:
            read.append((at_ns, deserialize_message(raw, Instruction)))
    assert read == [(item.at_ns, item.instruction) for item in ITEMS]
