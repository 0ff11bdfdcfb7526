# SPDX-License-Identifier: Apache-2.0
"""Memory of the node with the embedded model, and whether instructions make it grow.

Resident memory of the node's process is read from outside between instructions, which answer,
are killed, expire and are rejected in turn. Growth is the slope of a line fitted by least squares
after a warm-up, in which allocators reach their size. They take and return memory by the MiB, so
the slope of a short run scatters; a growth shows in the highest sizes, which then rise throughout.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from machine import heading
from served import Served, draw_instruction, served

from timebill_ros.msg import Overrun
from timebill_ros.node.conversions import REASONS

PROMPT_TOKENS = (50, 1000)
MAX_TOKENS = 64
KIB, MIB = 1024.0, 1024.0 * 1024.0
SAMPLE_EVERY = 20
WARM_UP_SHARE = 0.5


def main() -> None:
    """Send many instructions and print the memory before, after and at its peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=2000)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    with served({"model": arguments.model, "profile_seconds": 5.0}) as node:
        process = psutil.Process(node.node.process.pid)
        before = process.memory_info().rss
        sizes, outcomes = measure(node, process, arguments.instructions)
        peak = peak_resident(process.pid)
    first = int(WARM_UP_SHARE * len(sizes))
    numbers = np.arange(first, len(sizes)) * SAMPLE_EVERY
    slope = np.polyfit(numbers / 100, np.array(sizes[first:]) / KIB, 1)[0]
    fifths = " ".join(f"{max(part) / MIB:.1f}" for part in np.array_split(sizes, 5))
    print(heading("Memory of the node"))
    print(f"{arguments.instructions} instructions: {outcomes}")
    print(f"resident, active and idle            {before / MIB:9.1f} MiB")
    print(f"resident, after {WARM_UP_SHARE:.0%} of them          {sizes[first] / MIB:9.1f} MiB")
    print(f"resident, after all of them          {sizes[-1] / MIB:9.1f} MiB")
    print(f"peak                                 {peak / MIB:9.1f} MiB")
    print(f"growth per 100 instructions          {slope:9.1f} KiB  (goal: none)")
    print(f"highest in each fifth of the run     {fifths} MiB")


def measure(node: Served, process: psutil.Process, count: int) -> tuple[list[int], str]:
    """Resident bytes after every twentieth instruction, and how the instructions ended."""
    rng = np.random.default_rng(0)
    names = {number: reason.value for reason, number in REASONS.items()}
    sizes: list[int] = []
    outcomes: Counter[str] = Counter()
    for number in range(count):
        instruction = draw_instruction(
            rng, f"i{number}", PROMPT_TOKENS, budget=float(rng.choice([60.0, 0.3, 0.05, 1e-6]))
        )
        instruction.max_tokens = MAX_TOKENS
        if number % 10 == 0:
            instruction.prompt = ""
        message = node.ask(instruction)
        outcomes[names[message.reason] if isinstance(message, Overrun) else "answered"] += 1
        if number % SAMPLE_EVERY == SAMPLE_EVERY - 1:
            sizes.append(process.memory_info().rss)
    return sizes, ", ".join(f"{number} {name}" for name, number in outcomes.most_common())


def peak_resident(pid: int) -> int:
    """The most bytes that a process has had in memory, which Linux keeps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) * 1024


if __name__ == "__main__":
    main()
