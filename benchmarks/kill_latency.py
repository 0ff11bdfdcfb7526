# SPDX-License-Identifier: Apache-2.0
"""How long after its deadline a killed instruction stops: Timing.slack, negated.

Its bound is one piece of the engine's work, a decoding step or a prefill chunk. Every tenth
instruction is unhurried and tells how long those take meanwhile: the mean step of its decoding,
and the last and longest chunk of its prefill, whose share of it is the time model's. (Single steps
and chunks scatter more than that: the bound that is printed is rather too low than too high.)
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from machine import heading
from served import QUANTILES_HEADER, Served, again, draw_instruction, duration, quantiles, served

from timebill_ros.msg import Instruction, Overrun, Response, Timing
from timebill_ros.runtime.settings import Settings
from timebill_ros.workload.tasks import Family

PROMPT_TOKENS = (1000, 3000)
TASKS = 8
LOOK_EVERY = 10
MARGIN = 0.005  # s
DECODE, PREFILL = Overrun.DECODE, Overrun.PREFILL
ATTEMPTS_PER_KILL = 5


@dataclass
class Times:
    """What was measured, s: kill latencies by stage, and one step or chunk of each answer."""

    kills: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    pieces: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> None:
    """Kill answers in prefill and in decoding, and print the latencies beside one piece of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decode-kills", type=int, default=120)
    parser.add_argument("--prefill-kills", type=int, default=60)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    parameters = {
        "model": arguments.model,
        "overrun_policy": "kill",
        "planner": "vanilla",  # nothing is evicted, so that answers take their full time
        "max_context": 4096,
        "profile_seconds": 5.0,
    }
    with served(parameters) as node:
        times = measure(node, {DECODE: arguments.decode_kills, PREFILL: arguments.prefill_kills})
    print(heading("Kill latency"))
    print(f"prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} tokens, instructions one by one")
    print(QUANTILES_HEADER)
    for stage, name, piece in (
        (DECODE, "decoding", "decoding step"),
        (PREFILL, "prefill", f"prefill chunk of {Settings().chunk} tokens"),
    ):
        bound = (float(np.quantile(times.pieces[stage], 0.99)) + MARGIN) * 1e3
        print(quantiles(f"one {piece}", times.pieces[stage]))
        print(quantiles(f"kill in {name} (goal p99 <= {bound:.1f} ms)", times.kills[stage]))


def measure(node: Served, wanted: dict[int, int]) -> Times:
    """Send hurried instructions until enough were killed in each stage, unhurried ones between.

    Raises:
        RuntimeError: too few are killed where they are meant to be.
    """
    rng = np.random.default_rng(0)
    tasks = [
        draw_instruction(rng, f"task {number}", PROMPT_TOKENS, family=Family.REPORT)
        for number in range(TASKS)
    ]
    times = Times()
    looks = [look(node, task, times) for task in tasks]
    for attempt in range(ATTEMPTS_PER_KILL * sum(wanted.values())):
        stages = [stage for stage in wanted if len(times.kills[stage]) < wanted[stage]]
        if not stages:
            return times
        number = int(rng.integers(TASKS))
        if attempt % LOOK_EVERY == 0:
            looks[number] = look(node, again(tasks[number], f"look {attempt}", 60.0), times)
        stage = stages[attempt % len(stages)]
        prefill, decode = (duration(t) for t in (looks[number].prefill, looks[number].decode))
        share = rng.uniform(0.1, 0.8)
        budget = share * prefill if stage == PREFILL else prefill + share * decode
        message = node.ask(again(tasks[number], f"hurried {attempt}", budget))
        if isinstance(message, Overrun) and message.reason == Overrun.KILLED:
            times.kills[message.stage].append(-duration(message.timing.slack))
    raise RuntimeError(f"too few kills: { ({s: len(k) for s, k in times.kills.items()}) }")


def look(node: Served, instruction: Instruction, times: Times) -> Timing:
    """Answer without hurry, and note how long one step and the last chunk took."""
    message = node.ask(instruction)
    if not isinstance(message, Response):
        raise RuntimeError(f"an unhurried instruction was not answered: {message.detail}")
    timing = message.timing
    model, prompt_tokens = node.time_model(), message.plan.prompt_tokens
    earlier = model.prefill(prompt_tokens - Settings().chunk)
    share = 1.0 - earlier / model.prefill(prompt_tokens)
    times.pieces[PREFILL].append(share * duration(timing.prefill))
    if message.response_tokens > 1:
        times.pieces[DECODE].append(duration(timing.decode) / (message.response_tokens - 1))
    return timing


if __name__ == "__main__":
    main()
