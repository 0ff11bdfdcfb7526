# SPDX-License-Identifier: Apache-2.0
"""Bags of this version, of others, and of none."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from std_msgs.msg import Header

from test.replay.recordings import START_NS, answer, killed, recorded, write
from timebill_ros.msg import ChatMessage, Overrun
from timebill_ros.node.conversions import time_msg
from timebill_ros.replay.bag import Bag, with_lengths
from timebill_ros.replay.recording import BadInput, Lengths
from timebill_ros.runtime.clock import NS_PER_S

INSTRUCTION = "timebill_ros/msg/Instruction"
STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name.lower())
def test_what_was_written_is_read_in_order_of_recording(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    items = [
        recorded("b", 1.0, lengths=None, system="Größe", max_tokens=7),
        recorded("a", 0.5, lengths=None, messages=[ChatMessage(role="user", content="stop")]),
    ]
    bag = Bag(write(tmp_path / "bag", items, storage=storage))
    assert bag.recorded == [items[1], items[0]]
    assert bag.storage is storage
    assert bag.notes == []


@pytest.mark.parametrize("suffix", ["mcap", "db3"])
def test_a_single_storage_file_is_a_bag_too(tmp_path: Path, suffix: str) -> None:
    storage = STORAGES[suffix == "mcap"]
    write(tmp_path / "bag", [recorded("a", 0.0, lengths=None)], storage=storage)
    (path,) = (tmp_path / "bag").glob(f"*.{suffix}")
    bag = Bag(path)
    assert [item.instruction.id for item in bag.recorded] == ["a"]
    assert bag.storage is storage


def test_outcomes_tell_the_lengths(tmp_path: Path) -> None:
    names = ("answered", "killed", "further", "expired", "late", "silent")
    items = [recorded(name, 0.1 * n, lengths=None) for n, name in enumerate(names)]
    outcomes = [
        answer("answered", 700, 40, 32),
        killed("killed", 800, 10, 64),
        killed("further", 900, 70, 64),
        Overrun(id="expired", reason=Overrun.EXPIRED),
        Overrun(id="late", reason=Overrun.LATE, response_tokens=3),
        answer("late", 600, 50, 0),
    ]
    bag = Bag(write(tmp_path / "bag", items, outcomes))
    assert {item.instruction.id: item.lengths for item in bag.recorded} == {
        "answered": Lengths(700, 40, 32),
        "killed": Lengths(800, 64, 64),
        "further": Lengths(900, 71, 64),
        "expired": None,
        "late": Lengths(600, 50),
        "silent": None,
    }


def test_instructions_without_a_name_of_their_own_get_one(tmp_path: Path) -> None:
    items = [recorded(name, 0.1 * n, lengths=None) for n, name in enumerate(["a", "", "a", "b"])]
    bag = Bag(write(tmp_path / "bag", items, [answer("a", 500), answer("a", 600), answer("b")]))
    assert [item.instruction.id for item in bag.recorded] == ["a", "#2", "a#3", "b"]
    tokens = [item.lengths and item.lengths.prompt_tokens for item in bag.recorded]
    assert tokens == [500, None, 600, 1000]


def test_a_name_that_was_made_is_nobody_s(tmp_path: Path) -> None:
    items = [
        recorded(n, 0.1 * at, lengths=None) for at, n in enumerate(["a#3", "a", "a", "#5", ""])
    ]
    names = [item.instruction.id for item in Bag(write(tmp_path / "bag", items)).recorded]
    assert names == ["a#3", "a", "a#3#3", "#5", "#5#5"]


def test_one_topic_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [recorded("a", 0.0)])
    assert len(Bag(path, "/llm/input/instruction").recorded) == 1
    with pytest.raises(BadInput, match="no timebill_ros/msg/Instruction at /other; its topics are"):
        Bag(path, "/other")


def test_known_lengths_win(tmp_path: Path) -> None:
    items = [recorded("a", 0.0), recorded("b", 0.0)]
    (a, b) = with_lengths(items, {"a": Lengths(5, 6)})
    assert (a.lengths, b) == (Lengths(5, 6), items[1])


def other_version(path: Path, definition: str, **values: object) -> Path:
    """A bag of one instruction whose definition is ``definition``."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(definition, INSTRUCTION))
    message = store.types[INSTRUCTION](**values)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/llm/input/instruction", INSTRUCTION, typestore=store)
        writer.write(connection, START_NS, store.serialize_cdr(message, INSTRUCTION))
    return path


def test_fields_that_an_older_version_lacks_are_not_set(tmp_path: Path) -> None:
    bag = Bag(other_version(tmp_path / "bag", "string id\nstring prompt", id="a", prompt="stop"))
    (item,) = bag.recorded
    assert (item.instruction.id, item.instruction.prompt) == ("a", "stop")
    assert item.instruction.max_tokens == 0
    (note,) = bag.notes
    assert "lack header, system, budget, deadline, max_tokens" in note
    assert note.endswith("taken as not set")


def test_fields_that_only_a_newer_version_has_are_left_out(tmp_path: Path) -> None:
    definition = "string id\nstring prompt\nfloat64 mood"
    values = {"id": "a", "prompt": "stop", "mood": 0.5}
    bag = Bag(other_version(tmp_path / "bag", definition, **values))
    assert any("unknown fields mood: left out" in note for note in bag.notes)


def test_stamps_of_another_clock_are_told(tmp_path: Path) -> None:
    simulated = recorded("a", 0.0, lengths=None, header=Header(stamp=time_msg(12 * NS_PER_S)))
    unset = recorded("b", 0.1, lengths=None, header=Header())
    (note,) = Bag(write(tmp_path / "bag", [simulated, unset])).notes
    assert "1 stamps lie more than a day from their recording" in note
    assert "--by-stamp" in note


def test_stamps_of_another_clock_can_be_what_counts(tmp_path: Path) -> None:
    late, early = (
        recorded(name, at, header=Header(stamp=time_msg(second * NS_PER_S)))
        for name, at, second in (("late", 0.0, 14), ("early", 0.1, 12))
    )
    bag = Bag(write(tmp_path / "bag", [late, early], [answer("late", 500)]), by_stamp=True)
    assert bag.notes == []
    assert [(item.at_ns, item.instruction) for item in bag.recorded] == [
        (12 * NS_PER_S, early.instruction),
        (14 * NS_PER_S, late.instruction),
    ]
    assert [item.lengths for item in bag.recorded] == [None, Lengths(500, 11, 16)]


def test_by_stamp_every_instruction_needs_one(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [recorded("a", 0.0), recorded("b", 0.1, header=Header())])
    with pytest.raises(BadInput, match="--by-stamp: the instruction 'b' has no stamp"):
        Bag(path, by_stamp=True)


@pytest.mark.parametrize(
    ("definition", "values", "fault"),
    [
        ("string id", {"id": "a"}, "no field prompt"),
        ("int32 id\nstring prompt", {"id": 3, "prompt": "x"}, "field id: it is no string"),
    ],
)
def test_versions_that_tell_something_else_are_refused(
    tmp_path: Path, definition: str, values: dict[str, object], fault: str
) -> None:
    path = other_version(tmp_path / "bag", definition, **values)
    with pytest.raises(BadInput, match=fault):
        Bag(path)


def test_a_bag_of_other_things_says_what_it_holds(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(tmp_path / "bag", version=9) as writer:
        writer.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
    with pytest.raises(BadInput, match=r"its topics are: /chatter \(std_msgs/msg/String, 0\)"):
        Bag(tmp_path / "bag")


def test_malformed_bags_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere: not a rosbag2 that can be read"):
        Bag(tmp_path / "nowhere")
    for number, storage in enumerate(STORAGES):
        path = write(tmp_path / f"bag{number}", [recorded("a", 0.0)] * 50, storage=storage)
        (data,) = (file for file in path.iterdir() if file.name != "metadata.yaml")
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 3])
        with pytest.raises(BadInput, match=f"bag{number}: (not a rosbag2|.*: its end is missing)"):
            Bag(path)
        (path / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
        with pytest.raises(BadInput, match=f"bag{number}: not a rosbag2"):
            Bag(path)


def test_a_message_that_is_cut_short_is_named(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("string id\nstring prompt", INSTRUCTION))
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/x", INSTRUCTION, typestore=store)
        writer.write(connection, START_NS, b"\x00\x01\x00\x00\xff\xff")
    with pytest.raises(BadInput, match="not a rosbag2 that can be read"):
        Bag(tmp_path / "bag")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "bag", [recorded("a", 0.0)])
    with pytest.raises(BadInput, match="exists already"):
        write(tmp_path / "bag", [recorded("b", 0.0)])
