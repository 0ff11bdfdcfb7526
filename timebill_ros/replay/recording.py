# SPDX-License-Identifier: Apache-2.0
"""Instructions as they were recorded, and what is changed about them to play them again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import timebill_ros.msg as msg
from timebill_ros.client.record import Record
from timebill_ros.node.conversions import nanoseconds, time_msg

Keep = Callable[[int, msg.Instruction | msg.Response | msg.Overrun], None]
"""Keeps a message with the instant at which it was sent or came."""


class BadInput(Exception):
    """What the user gave cannot be worked with; the message names the file, line, field or option.

    Its own exit status, so that a pipeline can tell it from a replay that went wrong.
    """

    exit_status = 2


@dataclass(frozen=True)
class Lengths:
    """How long a prompt and its response are on the recorded model, tokens.

    Attributes:
        prompt_tokens, response_tokens: N_x and N, both at least 1.
        predicted_tokens: N_hat; None where no prediction is known.
    """

    prompt_tokens: int
    response_tokens: int
    predicted_tokens: int | None = None


@dataclass(frozen=True)
class Recorded:
    """One instruction, its id not empty and unique in its recording.

    Attributes:
        at_ns: when it is due, which is when it was recorded or its stamp; above 0.
        instruction: the message.
        lengths: None where nothing recorded tells them.
    """

    at_ns: int
    instruction: msg.Instruction
    lengths: Lengths | None = None


@dataclass(frozen=True)
class Tempo:
    """How recorded time passes.

    Attributes:
        rate: recorded seconds per second of execution.
        simulated: whether the node's time is the recorded one (/clock, ``use_sim_time``), so that
            budgets shrink with the rate too; otherwise only the instructions come that much faster.
    """

    rate: float = 1.0
    simulated: bool = False


@dataclass(frozen=True)
class Outcomes:
    """What became of a replay: a record per instruction, and where the contract was broken."""

    records: Sequence[Record]
    faults: Sequence[str]


def named(instructions: Sequence[msg.Instruction]) -> list[msg.Instruction]:
    """The same with ids by which their answers can be told apart.

    An empty id becomes the position, "#3"; an id that was used before gets the position appended,
    "a#3". Positions count from 1.
    """
    seen: set[str] = set()
    result = []
    for position, instruction in enumerate(instructions, 1):
        name = instruction.id
        while not name or name in seen:
            name = f"{name}#{position}"
        if name != instruction.id:
            instruction = copy.copy(instruction)
            instruction.id = name
        seen.add(name)
        result.append(instruction)
    return result


def shifted(instruction: msg.Instruction, by_ns: int) -> msg.Instruction:
    """A copy whose stamp and absolute deadline, where they are set, lie ``by_ns`` later.

    Budgets are durations and stay what they are.
    """
    moved = copy.deepcopy(instruction)
    if stamp_ns := nanoseconds(moved.header.stamp):
        moved.header.stamp = time_msg(stamp_ns + by_ns)
    if deadline_ns := nanoseconds(moved.deadline):
        moved.deadline = time_msg(deadline_ns + by_ns)
    return moved
