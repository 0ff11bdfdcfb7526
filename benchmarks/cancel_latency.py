# SPDX-License-Identifier: Apache-2.0
"""How long after its cancel a running goal stops, and when its client knows.

The engine stops at the next piece of its work: the bound is one decoding step or one prefill chunk
after the cancel has come to it. The stop is the release plus Timing.total; both ends read the same
machine's clock.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
from machine import heading
from served import PATIENCE, QUANTILES_HEADER, again, draw_instruction, duration, quantiles, served

from timebill_ros.client.client import InstructionClient
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import nanoseconds, time_msg
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.settings import Settings
from timebill_ros.workload.tasks import Family

PROMPT_TOKENS = (3000, 3500)
TASKS = 4
ATTEMPTS = 5  # per cancel that is wanted
STAGES = {Overrun.PREFILL: "prefill", Overrun.DECODE: "decoding"}
Latencies = dict[int, list[tuple[float, float]]]


def main() -> None:
    """Cancel goals in prefill and in decoding, and print how long that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cancels", type=int, default=60, help="in each of the two stages")
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    parameters = {
        "model": arguments.model,
        "planner": "vanilla",  # nothing is evicted, so that answers take their full time
        "max_context": 4096,
        "profile_seconds": 5.0,
    }
    with (
        served(parameters) as node,
        InstructionClient(server=node.node.name, domain=node.node.domain) as client,
    ):
        client.wait_for_node()
        measured = measure(client, arguments.cancels)
    print(heading("Cancel latency"))
    print(f"prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} tokens, goals one by one")
    print(QUANTILES_HEADER)
    for stage, name in STAGES.items():
        chunk = f", chunks of {Settings().chunk}" if stage == Overrun.PREFILL else ""
        stopped, known = zip(*measured[stage], strict=True)
        print(quantiles(f"cancel in {name}{chunk} -> stopped", stopped))
        print(quantiles(f"cancel in {name}{chunk} -> result taken", known))


def measure(client: InstructionClient, wanted: int) -> Latencies:
    """Cancel at random moments until each stage has its number.

    Raises:
        RuntimeError: too few are canceled where they are meant to be.
    """
    rng = np.random.default_rng(0)
    tasks = [
        draw_instruction(rng, f"task {n}", PROMPT_TOKENS, family=Family.REPORT)
        for n in range(TASKS)
    ]
    looks = [calm(client, task) for task in tasks]
    found: Latencies = defaultdict(list)
    for attempt in range(ATTEMPTS * len(STAGES) * wanted):
        stages = [stage for stage in STAGES if len(found[stage]) < wanted]
        if not stages:
            return found
        number, stage = int(rng.integers(TASKS)), stages[attempt % len(stages)]
        prefill, decode = looks[number]
        share = rng.uniform(0.1, 0.7)
        delay = share * prefill if stage == Overrun.PREFILL else prefill + share * decode
        canceled = cancel_after(client, again(tasks[number], f"a{attempt}", 60.0), delay)
        if canceled is not None:
            found[canceled[0]].append(canceled[1:])
    raise RuntimeError(f"too few were canceled: { ({s: len(f) for s, f in found.items()}) }")


def calm(client: InstructionClient, instruction: Instruction) -> tuple[float, float]:
    """Seconds of prefill and of decoding when nobody cancels.

    Raises:
        RuntimeError: the instruction was not answered.
    """
    goal = client.send(instruction)
    client.wait_for(goal, timeout=PATIENCE)
    if not isinstance(goal.terminal, Response):
        raise RuntimeError(f"{instruction.id} was not answered: {goal.terminal}")
    timing = goal.terminal.timing
    return duration(timing.prefill), duration(timing.decode)


def cancel_after(
    client: InstructionClient, instruction: Instruction, delay: float
) -> tuple[int, float, float] | None:
    """Stage of the goal, s from the cancel to its stop and to its result; None if it had ended."""
    instruction.header.stamp = time_msg(time.clock_gettime_ns(time.CLOCK_REALTIME))
    goal = client.send(instruction)
    client.spin(delay)
    canceled_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    began_ns = time.monotonic_ns()
    goal.cancel()
    client.wait_for(goal, timeout=PATIENCE)
    ended = goal.terminal
    if goal.end is None or not isinstance(ended, Overrun) or ended.stage not in STAGES:
        return None
    stopped_ns = nanoseconds(ended.header.stamp) + nanoseconds(ended.timing.total)
    return ended.stage, seconds(stopped_ns - canceled_ns), seconds(goal.end.arrived_ns - began_ns)


if __name__ == "__main__":
    main()
