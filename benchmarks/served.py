# SPDX-License-Identifier: Apache-2.0
"""A running node and driving-scene instructions for it: what the benchmarks of the node share."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timebill_ros.budget.fit import Measurement, ProfilePoints, fit_time_model
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.client.client import InstructionClient
from timebill_ros.client.exchange import Exchange
from timebill_ros.client.node_process import NodeProcess, Parameter
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.runtime.clock import seconds
from timebill_ros.workload.tasks import Family, sample_family, sample_task

PATIENCE = 120.0  # s for an instruction to end
UNHURRIED = 60.0  # s; a budget that nothing here needs


@dataclass(frozen=True)
class Served:
    """A node that is active, a client that it hears, and the folder that its profile is kept in."""

    node: NodeProcess
    client: InstructionClient
    profiles: Path

    def reconfigure(self, parameters: dict[str, Parameter]) -> None:
        """Configure and activate anew with some parameters changed; the profile is kept."""
        self.node.deactivate()
        self.node.cleanup()
        self.node.set_parameters(parameters)
        self.node.configure()
        self.node.activate()
        self.client.wait_for_node()

    def time_model(self) -> TimeModel:
        """The time model that the node plans with, from the profile that it keeps."""
        (path,) = self.profiles.glob("*.json")
        points = json.loads(path.read_text())["points"]
        measured = {stage: tuple(Measurement(**r) for r in rows) for stage, rows in points.items()}
        return fit_time_model(ProfilePoints(**measured)).model

    def ask(self, instruction: Instruction) -> Response | Overrun:
        """Send an instruction and wait for the message that ends it.

        Raises:
            TimeoutError: there is none within two minutes.
        """
        exchange = self.client.send(instruction)
        if not self.client.wait_for(exchange, timeout=PATIENCE):
            raise TimeoutError(f"{instruction.id} has not ended after {PATIENCE:g} s")
        return ended(exchange)


@contextmanager
def served(parameters: dict[str, Parameter]) -> Iterator[Served]:
    """A node in a process and on a domain of its own, profiled anew."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"profile_cache": folder, **parameters}
        with NodeProcess(given) as node:
            node.configure()
            node.activate()
            with InstructionClient(server=node.name, domain=node.domain, by_topic=True) as client:
                client.wait_for_node()
                yield Served(node, client, Path(folder))


def draw_instruction(
    rng: np.random.Generator,
    id: str,
    prompt_tokens: tuple[int, int],
    *,
    family: Family | None = None,
    budget: float = UNHURRIED,
) -> Instruction:
    """An instruction with a prompt of log-uniform length; of any family where none is named."""
    low, high = map(math.log, prompt_tokens)
    tokens = round(math.exp(rng.uniform(low, high)))
    task = sample_task(rng, sample_family(rng) if family is None else family, tokens)
    return Instruction(
        id=id, system=task.system, prompt=task.instruction, budget=duration_msg(budget)
    )


def again(instruction: Instruction, id: str, budget: float) -> Instruction:
    """The same task under a new id and another budget, s."""
    return Instruction(
        id=id, system=instruction.system, prompt=instruction.prompt, budget=duration_msg(budget)
    )


def ended(exchange: Exchange) -> Response | Overrun:
    """The message that ended an exchange; call it once there is one."""
    (message,) = (arrival.message for arrival in exchange.arrivals if arrival.terminal)
    return message


def duration(message: object) -> float:
    """A duration message in s."""
    return seconds(nanoseconds(message))


def execution(message: Response | Overrun) -> float:
    """s from the start of an instruction's execution to its end."""
    return duration(message.timing.total) - duration(message.timing.queued)


def quantiles(name: str, times: Sequence[float]) -> str:
    """One row of a table: p50, p99 and the largest of some times in s, shown in ms."""
    p50, p99, worst = np.quantile(times, [0.5, 0.99, 1.0]) * 1e3
    return f"{name:44}{len(times):>6}{p50:>10.2f}{p99:>10.2f}{worst:>10.2f}"


QUANTILES_HEADER = f"{'':44}{'n':>6}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}"
