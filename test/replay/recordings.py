# SPDX-License-Identifier: Apache-2.0
"""Small recordings and bags, with answers and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builtin_interfaces.msg import Duration
from rosbags.rosbag2 import StoragePlugin
from std_msgs.msg import Header

from timebill_ros.msg import Instruction, Overrun, Plan, Response
from timebill_ros.node.conversions import duration_msg, time_msg
from timebill_ros.replay.bag_files import BagWriter
from timebill_ros.replay.recording import Lengths, Recorded
from timebill_ros.runtime.clock import NS_PER_S

START_NS = 1_700_000_000 * NS_PER_S

# Prefill 1 ms per 100 tokens, a step 1 ms whatever the cache, no eviction time.
FLAT = '{"a": 0.0, "b": 1e-5, "c": 0.0, "p": 0.0, "q": 1e-3}'


def recorded(
    name: str,
    at: float,
    *,
    budget: float = 1.0,
    lengths: Lengths | None = Lengths(1000, 11),  # noqa: B008 - a frozen value
    **fields: object,
) -> Recorded:
    """An instruction that was released and recorded ``at`` s after the start."""
    at_ns = START_NS + round(at * NS_PER_S)
    instruction = Instruction(
        header=Header(stamp=time_msg(at_ns)), id=name, prompt=name, budget=duration_msg(budget)
    )
    for field, value in fields.items():
        setattr(instruction, field, value)
    return Recorded(at_ns, instruction, lengths)


def of_simulation(name: str, at: float) -> Recorded:
    """One of simulated time, whose clock began 10 s before, recorded with the wall's."""
    stamp = time_msg(round((10.0 + at) * NS_PER_S))
    return recorded(name, at, header=Header(stamp=stamp))


def write(
    path: Path,
    items: Sequence[Recorded],
    outcomes: Sequence[Response | Overrun] = (),
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Path:
    """A bag of these instructions, and of these outcomes a second after the last one."""
    with BagWriter(path, storage, "/llm") as bag:
        for item in items:
            bag.write(item.at_ns, item.instruction)
        for number, outcome in enumerate(outcomes):
            bag.write(items[-1].at_ns + NS_PER_S + number, outcome)
    return path


def answer(name: str, prompt: int = 1000, response: int = 11, predicted: int = 16) -> Response:
    return Response(id=name, response_tokens=response, plan=plan(prompt, predicted))


def killed(name: str, prompt: int, response: int, predicted: int) -> Overrun:
    return Overrun(
        id=name, reason=Overrun.KILLED, response_tokens=response, plan=plan(prompt, predicted)
    )


def plan(prompt: int, predicted: int) -> Plan:
    return Plan(
        planner="timebill",
        prompt_tokens=prompt,
        predicted_tokens=predicted,
        wcet=Duration(sec=1),
    )
