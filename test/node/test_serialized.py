# SPDX-License-Identifier: Apache-2.0
"""Instructions that are refused before they are taken apart: by their bytes, and as goals."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from timebill_ros.action import Instruct
from timebill_ros.msg import ChatMessage, Instruction
from timebill_ros.node.goal_requests import GoalRequests
from timebill_ros.node.serialized import MOST_TURNS, refusal_of

ROOM = 10_000
MARK = "#####"
# One 5-byte text in every field, so that a mark in one of them shows whether it is found there.
FIELDS = ("id", "system", "prompt", "response_schema")


def instruction(**fields: object) -> Instruction:
    header = Header(stamp=Time(sec=7, nanosec=5), frame_id="map")
    return Instruction(**{"header": header, "id": "a", "prompt": "stop", **fields})


Refused = Callable[..., str | None]


def refused_topic(message: Instruction, room: int = ROOM, by: bytes = MARK.encode()) -> str | None:
    """The detail for a message, whose mark may be swapped for other bytes."""
    raw = serialize_message(message).replace(MARK.encode(), by)
    refusal = refusal_of(raw, room)
    if refusal is None:
        return None
    assert refusal.message.header == message.header
    return refusal.detail


def goal_request(instruction: Instruction) -> Instruct.Impl.SendGoalService.Request:
    request = Instruct.Impl.SendGoalService.Request()
    request.goal_id.uuid = list(range(16))
    request.goal.instruction = instruction
    return request


def refused_goal(message: Instruction, room: int = ROOM) -> str | None:
    requests = GoalRequests()
    requests.max_prompt_chars = room
    raw = serialize_message(goal_request(message))
    taken = deserialize_message(raw, requests.action.Impl.SendGoalService.Request)
    assert bytes(taken.goal_id.uuid) == bytes(range(16))
    assert requests.fault_of(b"another") is None
    fault = requests.fault_of(bytes(range(16)))
    if fault is None:
        assert taken.goal.instruction == message
    else:
        assert taken.goal.instruction == Instruction(
            header=message.header,
            id=message.id,
            budget=message.budget,
            deadline=message.deadline,
            max_tokens=message.max_tokens,
        )
    return fault


@pytest.fixture(params=[refused_topic, refused_goal], ids=["topic", "goal"])
def refused(request: pytest.FixtureRequest) -> Refused:
    """How an instruction is refused that comes by either way."""
    return request.param


@pytest.mark.parametrize("turns", [0, 1, 2, MOST_TURNS])
@pytest.mark.parametrize("length", range(5))
def test_whatever_fits_passes(refused: Refused, turns: int, length: int) -> None:
    texts = dict.fromkeys(FIELDS, "é" * length)
    spoken = [ChatMessage(role="user", content="x" * (n % 5)) for n in range(turns)]
    assert refused(instruction(**texts, messages=spoken)) is None


def test_too_many_turns_are_refused_by_their_number(refused: Refused) -> None:
    spoken = [ChatMessage(role="user", content="x")] * (MOST_TURNS + 1)
    assert refused(instruction(messages=spoken)) == (
        "messages: 1001 turns are more than the 1000 that are taken"
    )


def test_what_cannot_fit_the_context_is_refused_by_its_size(refused: Refused) -> None:
    detail = refused(instruction(prompt="x" * 2**21), room=1000)
    assert detail is not None
    assert detail.startswith("prompt: an instruction of 2097")
    assert "longer than the 1052576 " in detail
    assert refused(instruction(prompt="x" * 2**20), room=1000) is None


@pytest.mark.parametrize("name", FIELDS)
def test_a_nul_is_refused_by_its_field(name: str) -> None:
    detail = refused_topic(instruction(**{name: f"st{MARK}"}), by=b"op\0ab")
    assert detail == f"{name}: byte 4 is NUL, where a ROS string ends"


def test_sampling_passes_whatever_stands_before_it(refused: Refused) -> None:
    for length in range(9):
        sampled = {"temperature": [0.7], "top_p": [0.9], "seed": [3], "stop": ["x" * length] * 16}
        for left_out in (None, *sampled):
            fields = {name: value for name, value in sampled.items() if name != left_out}
            assert refused(instruction(**fields)) is None


@pytest.mark.parametrize(
    ("counts", "field"),
    [
        ((17, 0, 0, 0), "stop: 17 values are more than the 16"),
        ((0, 2, 0, 0), "seed: 2 values are more than the 1"),
        ((0, 0, 2, 0), "temperature: 2 values are more than the 1"),
        ((0, 0, 0, 2**32 - 1), "top_p: 4294967295 values are more than the 1"),
    ],
)
def test_too_many_values_are_refused_by_their_number(counts: tuple[int, ...], field: str) -> None:
    raw = serialize_message(instruction(response_schema="abc"))
    raw = raw[: raw.index(b"abc\0") + 4]
    refusal = refusal_of(raw + struct.pack("<4I", *counts), ROOM)
    assert refusal is not None
    assert refusal.detail.startswith(field)


def test_a_nul_in_a_stop_string_is_refused_by_its_number() -> None:
    detail = refused_topic(instruction(stop=["x", MARK]), by=b"\0abcd")
    assert detail == "stop[1]: byte 0 is NUL, where a ROS string ends"


@pytest.mark.parametrize(("role", "content"), [(MARK, "x"), ("user", MARK)])
def test_a_nul_in_a_turn_is_refused_by_the_turn(role: str, content: str) -> None:
    spoken = [ChatMessage(role="user", content="x"), ChatMessage(role=role, content=content)]
    field = "role" if role == MARK else "content"
    detail = refused_topic(instruction(messages=spoken), by=b"\0abcd")
    assert detail == f"messages[1].{field}: byte 0 is NUL, where a ROS string ends"


def test_an_id_with_a_nul_is_told_with_a_mark_in_its_place() -> None:
    raw = serialize_message(instruction(id=MARK)).replace(MARK.encode(), b"a\0b\xffc")
    refusal = refusal_of(raw, ROOM)
    assert refusal is not None
    assert refusal.message.id == "a\ufffdb\ufffdc"
    assert deserialize_message(raw, Instruction).id == "a"  # what would have become of it


def test_a_goal_s_fault_is_not_the_next_one_s() -> None:
    requests = GoalRequests()
    requests.max_prompt_chars = ROOM
    kind = requests.action.Impl.SendGoalService.Request
    spoken = [ChatMessage(role="user", content="x")] * (MOST_TURNS + 1)
    for turns, fault in ((spoken, "messages: 1001 turns"), ([], None)):
        deserialize_message(serialize_message(goal_request(instruction(messages=turns))), kind)
        assert (requests.fault_of(bytes(range(16))) or "").startswith(fault or "")
    assert requests.fault_of(bytes(range(16))) is None


def test_what_breaks_off_anywhere_is_no_instruction() -> None:
    said = [ChatMessage(role="user", content="go")]
    raw = serialize_message(instruction(messages=said, stop=["x"], seed=[1], top_p=[0.5]))
    for length in range(len(raw) - 4):  # a writer may pad the end
        with pytest.raises(ValueError, match="breaks off"):
            refusal_of(raw[:length], ROOM)
