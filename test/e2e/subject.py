# SPDX-License-Identifier: Apache-2.0
"""The node under test in a process of its own, and what tests ask of its answers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Self

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from timebill_ros.client.client import InstructionClient
from timebill_ros.client.exchange import Exchange
from timebill_ros.client.node_process import NodeProcess, Parameter
from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Partial, Response
from timebill_ros.node.conversions import duration_msg, nanoseconds
from timebill_ros.node.diagnostics import TOPIC, status_name
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.health import QUEUE_DEPTH
from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, pose

PATIENCE = 60.0  # s, for whatever must happen on a busy machine
AMPLE = 600.0  # s; a budget that no machine exceeds

# All that a test varies is here too, so that it does not depend on the test before.
SETTINGS: dict[str, Parameter] = {
    "model": "embedded",
    "max_context": 8192,
    "chunk": 128,
    "window": 64,
    "threads": 1,
    "planner": "timebill",
    "overrun_policy": "kill",
    "queue_capacity": 20,
    "predictor_grace": 60.0,
    "publish_partial": True,
    "partial_period": 0.1,
    "diagnostics_period": 0.05,
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
        self._longer = threading.Condition()
        super().__init__(self._settings, domain=domain, namespace=namespace, on_log=self._keep)

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
        """Whether its log comes to have the text."""
        with self._longer:
            return self._longer.wait_for(lambda: self.said(text), PATIENCE)

    def said(self, text: str) -> bool:
        """Whether its log has the text by now: lines come through a pipe, in their order."""
        return any(text in line for line in self._log)

    def _keep(self, line: str) -> None:
        with self._longer:
            self._log.append(line)
            self._longer.notify_all()

    def client(self) -> InstructionClient:
        """A client that the node hears; to be closed by the caller."""
        client = InstructionClient(server=self.name, domain=self.domain, by_topic=True)
        client.wait_for_node(PATIENCE)
        return client


class Lookout:
    """Sees what a node does meanwhile: what it decodes, and how many instructions wait."""

    def __init__(self, node: NodeProcess) -> None:
        self._decoding: set[str] = set()
        self._waiting = -1
        self._queue = status_name(node.name, "queue")
        self._session = Session("lookout", node.domain)
        ros = self._session.node
        partials, diagnostics = f"{node.name}/output/partial", TOPIC
        ros.create_subscription(Partial, partials, lambda p: self._decoding.add(p.id), 10)
        ros.create_subscription(DiagnosticArray, diagnostics, self._look, 10)
        ready = lambda: all(map(ros.count_publishers, (partials, diagnostics)))  # noqa: E731
        assert self._session.spin_until(ready, PATIENCE)

    def see(self, *, decoding: str = "", waiting: int | None = None) -> None:
        """Wait until the instruction ``decoding`` is decoded, and ``waiting`` others wait."""

        def seen() -> bool:
            begun = not decoding or decoding in self._decoding
            return begun and waiting in (None, self._waiting)

        assert self._session.spin_until(seen, PATIENCE)

    def _look(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == self._queue:
                (depth,) = (v.value for v in status.values if v.key == QUEUE_DEPTH)
                self._waiting = int(depth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def ask(id: str, prompt: str = "stop", budget: float = AMPLE) -> Instruction:
    """An instruction that is answered shortly."""
    return Instruction(id=id, prompt=prompt, budget=duration_msg(budget))


def long_work(id: str, budget: float = AMPLE) -> Instruction:
    """An instruction with a prompt of about 1,600 tokens and an answer of about 240."""
    rng = np.random.default_rng(7)
    scene = sample_scene(rng, 1600)
    prompt, _ = pose(rng, Family.REPORT, scene, names=30)
    return Instruction(id=id, system=scene.text, prompt=prompt, budget=duration_msg(budget))


def long_answer(id: str, budget: float = AMPLE, letters: int = 1000) -> Instruction:
    """An instruction whose answer is of so many letters, each a token of the embedded model."""
    instruction = ask(id, budget=budget)
    instruction.response_schema = json.dumps({"type": "string", "pattern": f"^[ab]{{{letters}}}$"})
    instruction.max_tokens = 6000
    return instruction


def endless_work(id: str, budget: float = AMPLE) -> Instruction:
    """An instruction that is decoded until it is stopped: its answer may not end before the cap."""
    return long_answer(id, budget, letters=10_000)


def settle(client: InstructionClient) -> None:
    """Have the client take all that the node has to say of what was sent before.

    An answered and a refused instruction: each topic keeps its order.
    """
    number = len(client.exchanges)
    client.send(ask(f"settling {number}"))
    client.send(ask(f"refused {number}", prompt=""))
    assert client.wait_for_all(PATIENCE)


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
