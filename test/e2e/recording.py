# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 of instructions about driving scenes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin
from std_msgs.msg import Header

from timebill_ros.msg import Instruction
from timebill_ros.node.conversions import duration_msg, time_msg
from timebill_ros.replay.bag_files import BagWriter
from timebill_ros.replay.recording import Recorded
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.workload.tasks import sample_family, sample_task

SIZE = 20
# The recorded instructions that a node cannot serve: without a prompt, and past its deadline.
EMPTY, OVERDUE = "i5", "i9"


def draw_recording(start_ns: int) -> list[Recorded]:
    """Instructions within some seconds, with budgets from 20 ms to 5 s, and one of minutes."""
    rng = np.random.default_rng(20)
    at_ns = start_ns
    recording = []
    for number in range(SIZE):
        task = sample_task(rng, sample_family(rng), int(rng.integers(60, 1500)))
        budget = math.exp(rng.uniform(math.log(0.02), math.log(5.0)))
        instruction = Instruction(
            header=Header(stamp=time_msg(at_ns), frame_id="base_link"),
            id=f"i{number}",
            system=task.system,
            prompt=task.instruction,
            budget=duration_msg(budget),
        )
        if number == 0:  # one that no machine is too slow for
            instruction.budget = duration_msg(600.0)
        if instruction.id == EMPTY:
            instruction.prompt = ""
        if instruction.id == OVERDUE:
            instruction.deadline = time_msg(at_ns - NS_PER_S)
        recording.append(Recorded(at_ns, instruction))
        at_ns += round(rng.exponential(0.15) * NS_PER_S)
    return recording


def write_recording(
    path: Path, storage: StoragePlugin, node: str, recording: list[Recorded]
) -> None:
    """A bag as `ros2 bag record` writes it of a node's instructions."""
    with BagWriter(path, storage, node) as bag:
        for item in recording:
            bag.write(item.at_ns, item.instruction)
