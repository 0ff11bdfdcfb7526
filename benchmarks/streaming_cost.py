# SPDX-License-Identifier: Apache-2.0
"""What it costs a decoding step that the response is shown while it grows.

The same instructions are answered in turn with and without it, one after the other, so that the
machine's drift meets all alike; each answer's mean step is compared with the one of the same round
without it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from machine import heading
from served import PATIENCE, Served, again, draw_instruction, duration, served

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Partial, Response
from timebill_ros.workload.tasks import Family

PROMPT_TOKENS = (1000, 3000)
TASKS = 4
# Time for the last messages to arrive, s.
SETTLING = 0.1
OFF = "off"
# Partial responses as (on the topic, every so many s).
TOPIC = {
    OFF: (False, 0.1),
    "~/output/partial every 0.1 s": (True, 0.1),
    "~/output/partial, every token": (True, 0.0),
}
FEEDBACK = {"feedback of a goal every 0.1 s": 0.1, "feedback of a goal, every token": 0.0}


def main() -> None:
    """Answer in every way in turn, and print the mean step of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    parameters = {
        "model": arguments.model,
        "planner": "vanilla",
        "max_context": 4096,
        "profile_seconds": 5.0,
    }
    with (
        served(parameters) as node,
        Session("watcher", node.node.domain) as watcher,
        InstructionClient(server=node.node.name, domain=node.node.domain) as goals,
    ):
        heard: list[Partial] = []
        topic = f"{node.node.name}/output/partial"
        watcher.node.create_subscription(Partial, topic, heard.append, 1000)
        goals.wait_for_node()

        def watched() -> int:
            """How many partial responses came since this was asked last."""
            watcher.spin_until(lambda: False, SETTLING)
            count = len(heard)
            heard.clear()
            return count

        steps, shown = measure(node, goals, watched, arguments.rounds)
    print(heading("Cost of streaming"))
    print(f"{'':36}{'n':>5}{'step ms':>9}{'added us':>10}{'shown per answer':>18}")
    off = np.array(steps[OFF])
    for way, times in steps.items():
        added = float(np.median(np.array(times) - off)) * 1e6
        step = float(np.median(times)) * 1e3
        print(f"{way:36}{len(times):>5}{step:>9.3f}{added:>10.1f}{shown[way]:>18.1f}")


def measure(
    node: Served, goals: InstructionClient, watched: Callable[[], int], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Mean seconds of a step by way and round; how often each way showed an answer, on average."""
    rng = np.random.default_rng(0)
    tasks = [
        draw_instruction(rng, f"task {n}", PROMPT_TOKENS, family=Family.REPORT)
        for n in range(TASKS)
    ]
    steps: dict[str, list[float]] = defaultdict(list)
    looks: dict[str, list[int]] = defaultdict(list)
    for number in range(rounds):
        task = tasks[number % TASKS]
        for way, (on_topic, period) in TOPIC.items():
            node.node.set_parameters({"publish_partial": on_topic, "partial_period": period})
            message = node.ask(again(task, f"{way} {number}", 60.0))
            steps[way].append(mean_step(message))
            looks[way].append(watched())
        for way, period in FEEDBACK.items():
            node.node.set_parameters({"publish_partial": False, "partial_period": period})
            message, heard = asked(goals, again(task, f"{way} {number}", 60.0))
            steps[way].append(mean_step(message))
            looks[way].append(heard)
    return steps, {way: float(np.mean(counts)) for way, counts in looks.items()}


def asked(
    goals: InstructionClient, instruction: Instruction
) -> tuple[Response | Overrun | None, int]:
    """The outcome of a goal, and how often its client was told of progress."""
    heard: list[int] = []
    goal = goals.send(
        instruction, on_feedback=lambda feedback: heard.append(feedback.response_tokens)
    )
    goals.wait_for(goal, timeout=PATIENCE)
    return goal.terminal, len(heard)


def mean_step(message: Response | Overrun | None) -> float:
    """Seconds of a decoding step, on average.

    Raises:
        RuntimeError: the instruction was not answered.
    """
    if not isinstance(message, Response):
        raise RuntimeError(f"an unhurried instruction was not answered: {message}")
    return duration(message.timing.decode) / (message.response_tokens - 1)


if __name__ == "__main__":
    main()
