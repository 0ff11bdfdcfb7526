# SPDX-License-Identifier: Apache-2.0
"""Bags as rosbag2 0.26 leaves them: compressed, split, reindexed, or of a killed recorder."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from test.replay.recordings import START_NS, recorded, write
from timebill_ros.replay.bag import Bag
from timebill_ros.replay.bag_files import INSTRUCTION, installed_definitions
from timebill_ros.replay.recording import BadInput

STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]
SUFFIX = {StoragePlugin.SQLITE3: "db3", StoragePlugin.MCAP: "mcap"}
NAMES = ("a", "b", "c")

each_storage = pytest.mark.parametrize("storage", STORAGES, ids=SUFFIX.__getitem__)


def names_of(path: Path) -> tuple[str, ...]:
    return tuple(item.instruction.id for item in Bag(path).recorded)


def small_bag(path: Path, storage: StoragePlugin, names: Sequence[str] = NAMES) -> Path:
    first = ord(names[0]) - ord(NAMES[0])
    return write(path, [recorded(n, 0.1 * (first + k)) for k, n in enumerate(names)], (), storage)


def compressed(path: Path, storage: StoragePlugin, mode: CompressionMode) -> Path:
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(
            "/llm/input/instruction", INSTRUCTION, typestore=installed_definitions()
        )
        for k, name in enumerate(NAMES):
            message = recorded(name, 0.1 * k).instruction
            writer.write(connection, START_NS + k, serialize_message(message))
    return path


@each_storage
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("killed", [False, True])
def test_compressed(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode, killed: bool
) -> None:
    path = compressed(tmp_path / "bag", storage, mode)
    if killed:
        (path / "metadata.yaml").unlink()
    bag = Bag(path)
    assert names_of(path) == NAMES
    assert bag.storage is storage
    assert len(bag.notes) == killed


@each_storage
def test_metadata_that_was_not_written_is_none(tmp_path: Path, storage: StoragePlugin) -> None:
    path = small_bag(tmp_path / "bag", storage)
    (path / "metadata.yaml").write_text("")
    assert names_of(path) == NAMES


@each_storage
def test_without_metadata_every_file_of_the_folder_is_read(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    path, more = small_bag(tmp_path / "bag", storage, "ab"), small_bag(tmp_path / "1", storage, "c")
    (path / "metadata.yaml").unlink()
    suffix = SUFFIX[storage]
    shutil.copyfile(more / f"1.{suffix}", path / f"bag_1.{suffix}")
    (path / f"bag_2.{suffix}").touch()  # as at a split, before anything is written to it
    assert names_of(path) == NAMES
    (note,) = Bag(path).notes
    assert "no metadata.yaml" in note


@each_storage
def test_files_that_the_metadata_lists_must_be_there(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    path, suffix = small_bag(tmp_path / "bag", storage), SUFFIX[storage]
    metadata = path / "metadata.yaml"
    text = metadata.read_text()
    assert f"- bag.{suffix}" in text
    metadata.write_text(text.replace(f"- bag.{suffix}", f"- bag.{suffix}\n    - bag_1.{suffix}"))
    with pytest.raises(BadInput, match=f"bag_1.{suffix} of its metadata.yaml is not there"):
        Bag(path)


@each_storage
def test_reindexed_metadata_may_tell_other_qos_than_the_files(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    metadata = small_bag(tmp_path / "bag", storage) / "metadata.yaml"
    text = metadata.read_text()
    assert "depth: 1000" in text
    metadata.write_text(text.replace("depth: 1000", "depth: 10"))
    assert names_of(metadata.parent) == NAMES


@pytest.mark.parametrize("lost", [8, 20, 40])
def test_an_mcap_file_without_its_end_gives_what_was_written(tmp_path: Path, lost: int) -> None:
    path = small_bag(tmp_path / "bag", StoragePlugin.MCAP)
    (file,) = path.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-lost])
    assert names_of(path) == names_of(file) == NAMES
    (note,) = Bag(path).notes
    assert "its end is missing" in note


def test_a_chunk_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    wordy = [recorded(name, at, prompt=name * 600_000) for at, name in enumerate("abcd")]
    (file,) = write(tmp_path / "bag", wordy).glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    assert names_of(file) == ("a", "b")  # a chunk ends at the first message beyond 1 MiB


def test_sqlite3_gives_what_is_in_its_journal_too(tmp_path: Path) -> None:
    path, killed = small_bag(tmp_path / "bag", StoragePlugin.SQLITE3), tmp_path / "killed"
    with closing(sqlite3.connect(path / "bag.db3")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("DELETE FROM messages WHERE id = 2")
        database.commit()
        shutil.copytree(path, killed)
    assert (killed / "bag.db3-wal").stat().st_size
    assert names_of(killed) == ("a", "c")
    assert (killed / "bag.db3-wal").stat().st_size  # the recording is left as it was


def test_a_recorder_that_wrote_nothing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    path.mkdir()
    with pytest.raises(BadInput, match=r"no .mcap or .db3 file in it"):
        Bag(path)
    (path / "bag_0.mcap").touch()
    with pytest.raises(BadInput, match="nothing had been written to it"):
        Bag(path)
