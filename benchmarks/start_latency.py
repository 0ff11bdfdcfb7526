# SPDX-License-Identifier: Apache-2.0
"""From an instruction's publication to the start of its prefill, in two processes over DDS.

The node is idle when an instruction comes. The start of execution is what Timing.queued tells, from
the instruction's stamp, which is taken just before it is published. Execution begins with
tokenising the prompt, so the time of that is added, measured here on the same prompts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from machine import heading
from served import QUANTILES_HEADER, draw_instruction, duration, quantiles, served

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.prompt import PromptEncoder
from timebill_ros.engine.request import Conversation
from timebill_ros.msg import Instruction
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings

PROMPT_TOKENS = (50, 3000)
PAUSE = 0.03  # s in which the node is idle
WARM_UP = 10


def main() -> None:
    """Send instructions one by one and print quantiles of the parts of their way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=300)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    instructions = [
        draw_instruction(rng, f"i{number}", PROMPT_TOKENS)
        for number in range(WARM_UP + arguments.instructions)
    ]
    for instruction in instructions:
        instruction.max_tokens = 2  # only the start is of interest
    starts, returns = measure(instructions, arguments.model)
    tokenising = tokenising_times(instructions[WARM_UP:], arguments.model)
    prefill_starts = [start + encode for start, encode in zip(starts, tokenising, strict=True)]
    print(heading("Start latency"))
    print(f"prompts of {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} tokens to an idle node")
    print(QUANTILES_HEADER)
    print(quantiles("published -> execution started", starts))
    print(quantiles("tokenising the prompt", tokenising))
    print(quantiles("published -> prefill started (goal < 20 ms)", prefill_starts))
    print(quantiles("response complete -> taken by the client", returns))


def measure(instructions: list[Instruction], model: str) -> tuple[list[float], list[float]]:
    """s from publication to execution, and from the end of execution to the client."""
    starts, returns = [], []
    with served({"model": model, "max_context": 4096, "profile_seconds": 5.0}) as node:
        for instruction in instructions:
            node.client.spin(PAUSE)
            timing = node.ask(instruction).timing
            exchange = node.client.exchanges[instruction.id]
            whole = (exchange.arrivals[-1].arrived_ns - exchange.sent_ns) * 1e-9
            starts.append(duration(timing.queued))
            returns.append(whole - duration(timing.total))
    return starts[WARM_UP:], returns[WARM_UP:]


def tokenising_times(instructions: list[Instruction], model: str) -> list[float]:
    """s of rendering and tokenising each prompt, as the engine does it first."""
    checkpoint = load_checkpoint(model_folder(Settings(model=model)))
    prompts = PromptEncoder(checkpoint.tokenizer, checkpoint.max_positions)
    times = []
    for instruction in instructions:
        start = time.perf_counter()
        prompts.encode(Conversation(instruction.system, instruction.prompt))
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
