# SPDX-License-Identifier: Apache-2.0
"""The node under test in a process of its own, and what tests ask of its answers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.exchange import Exchange
from timebill_ros.client.node_process import NodeProcess, Parameter
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.runtime.clock import seconds
from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, pose

PATIENCE = 60.0  # s, for whatever must happen on a busy machine
_PIPE_DELAY = 5.0  # s

# Small enough to be profiled in seconds, with prompts long enough to be stopped half-way. All that
# a test varies is here too, so that it does not depend on the test before.
SETTINGS: dict[str, Parameter] = {
    "model": "embedded",
    "max_context": 2048,
    "chunk": 128,
    "threads": 1,
    "planner": "timebill",
    "overrun_policy": "kill",
    "queue_capacity": 20,
    "partial_period": 0.1,
    "profile_seconds": 5.0,
    "use_sim_time": False,
}


class Subject(NodeProcess):
    """A node process that several tests share; each says with which parameters it needs it."""

    def __init__(self, profiles: Path, *, domain: int | None = None, namespace: str = "") -> None:
        """Not started; profiles are kept in ``profiles``, so that only the first test measures."""
        self._settings = {**SETTINGS, "profile_cache": str(profiles)}
        self._served: dict[str, Parameter] | None = None
        self._log: list[str] = []
        super().__init__(
            self._settings, domain=domain, namespace=namespace, on_log=self._log.append
        )

    def serve(self, **parameters: Parameter) -> None:
        """Active and configured with these parameters, whatever it was before.

        A node that already is stays as it is.

        Raises:
            NodeProcessError: they do not let it be configured.
        """
        wanted = {**self._settings, **parameters}
        if self._served == wanted and self.state() == "active":
            return
        self.unload()
        self.set_parameters(wanted)
        self.configure(PATIENCE)
        self.activate()
        self._served = wanted

    def unload(self) -> None:
        """Unconfigured, whatever it was before."""
        self._served = None
        if self.state() == "active":
            self.deactivate()
        if self.state() == "inactive":
            self.cleanup()

    def says(self, text: str) -> bool:
        """Whether its log has the text, once what it wrote before has come through the pipe."""
        end = time.monotonic() + _PIPE_DELAY
        while not (found := any(text in line for line in self._log)) and time.monotonic() < end:
            time.sleep(0.01)
        return found

    def client(self) -> InstructionClient:
        """A client that the node hears; to be closed by the caller."""
        client = InstructionClient(server=self.name, domain=self.domain, by_topic=True)
        client.wait_for_node(PATIENCE)
        return client


def ask(id: str, prompt: str = "stop", budget: float = 30.0) -> Instruction:
    """An instruction that is answered shortly, with a budget that no machine exceeds."""
    return Instruction(id=id, prompt=prompt, budget=duration_msg(budget))


def long_work(id: str, budget: float = 30.0) -> Instruction:
    """An instruction with a prompt of about 1,600 tokens and an answer of about 240."""
    rng = np.random.default_rng(7)
    scene = sample_scene(rng, 1600)
    prompt, _ = pose(rng, Family.REPORT, scene, names=30)
    return Instruction(id=id, system=scene.text, prompt=prompt, budget=duration_msg(budget))


def ended_by(exchange: Exchange) -> Response | Overrun:
    """The one terminal message of an exchange."""
    (terminal,) = (arrival.message for arrival in exchange.arrivals if arrival.terminal)
    return terminal


def overruns(exchange: Exchange) -> list[int]:
    """The reasons of all overruns of an exchange, in order of arrival."""
    return [a.message.reason for a in exchange.arrivals if isinstance(a.message, Overrun)]


def duration(message: object) -> float:
    """A duration message in seconds."""
    return seconds(nanoseconds(message))
