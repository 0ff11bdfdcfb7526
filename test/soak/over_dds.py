# SPDX-License-Identifier: Apache-2.0
"""Soak over DDS: exactly one terminal message for each of 10,000 instructions to a real node.

Each round is drawn from a seed of its own: instructions by topic and as goals, good and bad ones,
cancels, clients that vanish, parameters and transitions that do and do not fit, prompts at which
the predictor raises, the logits are NaN or memory runs out, and now and then a signal that ends
the node. A violation is reported with its round's seed, and ``--first-seed SEED
--instructions 1`` runs that round again; a run that was ended says from which seed to go on.

A signal may come before the node has read an instruction: of such a round, at most one terminal
message is asked for.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.task import Future

from timebill_ros.action import Instruct
from timebill_ros.client.node_process import NodeProcess, node_command
from timebill_ros.client.session import Session
from timebill_ros.msg import ChatMessage, Instruction, Overrun, Response
from timebill_ros.node.conversions import duration_msg
from timebill_ros.node.topics import INSTRUCTION_QOS, OUTCOME_QOS
from timebill_ros.srv import Quote

# A file, not a package's: the node is started by path, in a process that has no test on its path.
FAULTY_NODE = Path(__file__).with_name("faulty_node.py")
# Words of prompts, as the faulty node knows them; what it fails with cannot be answered.
PREDICTOR_FAULT, ENGINE_FAULTS = "predictorfault", ("nanfault", "memoryfault")
ROUND = 50  # instructions
PATIENCE = 120.0  # s
# Rounds in which memory, descriptors and threads settle, and what may be added after them: Python
# and the middleware keep pools, which grow with the largest burst. Seen in 200 rounds (seeds 120 to
# 319): processes that began at 435 to 441 MB and held 447 to 478 after ten rounds, and 475 to 496
# from then on without a trend, the longest for 68 rounds.
_SETTLING = 10
_MOST_GROWTH = {"memory_mb": 60.0, "descriptors": 8, "threads": 2}
_SETTINGS = {
    "max_context": 1024,
    "max_tokens": 24,
    "threads": 1,
    "queue_capacity": 64,
    "profile_seconds": 5.0,
}
_SPENT = 0.2  # s, in which a second terminal message of a round would come


def draw_instruction(rng: random.Random, id: str) -> Instruction:
    """An instruction, good or bad."""
    message = Instruction(id=id, prompt="stop " * rng.choice((1, 1, 5, 100)))
    message.budget = duration_msg(rng.choice((0.0, 0.001, 0.05, 0.5, 5.0, 60.0, -1.0, 1e6)))
    message.max_tokens = rng.choice((0, 0, 0, 1, 8, 2**32 - 1))
    odd = rng.random()
    if odd < 0.05:
        message.prompt = rng.choice(("", " \n", "x" * 200_000, "\x1b[2J\n[FATAL] forged"))
    elif odd < 0.1:
        role = rng.choice(("user", "assistant", "judge", ""))
        message.messages = [ChatMessage(role=role, content="go")] * rng.choice((1, 3, 2000))
    elif odd < 0.15:
        message.response_schema = rng.choice(
            ('{"type": "integer"}', '{"type": ', '{"type": "strin"}', '{"enum": ["go", "stop"]}')
        )
    elif odd < 0.2:
        message.prompt = f"stop {rng.choice((PREDICTOR_FAULT, *ENGINE_FAULTS))}"
    elif odd < 0.3:
        message.temperature = rng.choice(([], [0.0], [1.0], [-1.0], [float("nan")], [1e-40]))
        message.top_p = rng.choice(([], [0.9], [0.0], [float("inf")]))
        message.seed = rng.choice(([], [1], [2**32 - 1]))
        message.stop = rng.choice(([], [""], ["e"], ["x" * 300], ["\x1b"] * 16))
    if rng.random() < 0.1:
        message.fallback_text = rng.choice(("stop", "x" * 5000, "\x1b[2J"))
    return message


class Soak:
    """A node in a process of its own, and a client that counts what it says.

    Attributes:
        violations: what broke the contract, each with its seed.
        counts: instructions and terminal messages by kind.
    """

    def __init__(self, node: NodeProcess) -> None:
        """Watch a started node."""
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._node = node
        self._terminal: Counter[str] = Counter()
        self._results: Counter[str] = Counter()
        self._doomed: set[str] = set()  # the engine fails at them
        self._first: dict[str, float] | None = None
        self._rounds = 0
        self._session = Session("soak", node.domain)
        ros = self._session.node
        self._publisher = ros.create_publisher(
            Instruction, f"{node.name}/input/instruction", INSTRUCTION_QOS
        )
        for kind, topic in ((Response, "response"), (Overrun, "overrun")):
            ros.create_subscription(kind, f"{node.name}/output/{topic}", self._heard, OUTCOME_QOS)
        # By default ten answers are kept: of a burst's, those that come before the client looks.
        services = (f"{kind}_service_qos_profile" for kind in ("goal", "result", "cancel"))
        kept = dict.fromkeys(services, INSTRUCTION_QOS)
        self._goals = ActionClient(ros, Instruct, f"{node.name}/instruct", **kept)
        self._quotes = ros.create_client(Quote, f"{node.name}/quote", qos_profile=INSTRUCTION_QOS)
        self._quoted: list[Future] = []
        self._change = ros.create_client(ChangeState, f"{node.name}/change_state")
        self._set = ros.create_client(SetParameters, f"{node.name}/set_parameters")
        self.serve()

    def serve(self) -> None:
        """Configure and activate the node, and wait until both sides hear each other."""
        self._node.configure()
        self._node.activate()
        self._first, self._rounds = None, 0
        self._until("the node's topics", self._connected)

    def round(self, seed: int) -> None:
        """One round: send, disturb, and count."""
        rng = random.Random(seed)
        for each in (self._terminal, self._results, self._doomed, self._quoted):
            each.clear()
        ids = [f"{seed}-{number}" for number in range(ROUND)]
        disturbance = rng.choice(("none", "parameters", "inactive", "vanish", "signal", "none"))
        if disturbance == "signal" and rng.random() < 0.7:
            disturbance = "reload"
        goals = self._send(rng, ids, disturbance)
        if disturbance == "signal":
            self._end_by_signal(rng)
        else:
            self._session.spin_until(lambda: self._ended(ids, goals), PATIENCE)
        self._session.spin_until(lambda: False, _SPENT)
        self._judge(seed, ids, goals, missing_allowed=disturbance == "signal")
        if unanswered := sum(not quote.done() for quote in self._quoted):
            self.violations.append(f"seed {seed}: {unanswered} quotes were never answered")
        self.counts["quotes"] += len(self._quoted)
        self.counts["instructions"] += ROUND
        if disturbance == "reload":
            for step in (self._node.deactivate, self._node.cleanup, self._node.configure):
                step()
            self._node.activate()
            self._until("the node's topics", self._connected)
        self._rounds += 1
        self._look_at_process(seed)

    def _send(self, rng: random.Random, ids: list[str], disturbance: str) -> set[str]:
        """Send a round's instructions, disturbed half-way; those that went as goals."""
        goals: set[str] = set()
        ends = disturbance == "signal"
        for number, id in enumerate(ids):
            if number == ROUND // 2:
                self._disturb(rng, disturbance, id)
            if rng.random() < 0.3 and not ends:
                goals.add(id)
                self._send_goal(rng, id)
            elif not (ends and number >= ROUND // 2):
                self._publisher.publish(self._draw(rng, id))
            if rng.random() < 0.2 and not ends:
                asked = Quote.Request(instruction=draw_instruction(rng, "quoted"))
                self._quoted.append(self._quotes.call_async(asked))
        return goals

    def close(self) -> None:
        """Leave the domain."""
        self._goals.destroy()
        self._session.close()

    def _draw(self, rng: random.Random, id: str) -> Instruction:
        """An instruction; noted where the engine is to fail at it."""
        instruction = draw_instruction(rng, id)
        if any(fault in instruction.prompt for fault in ENGINE_FAULTS):
            self._doomed.add(id)
        return instruction

    def _ended(self, ids: list[str], goals: set[str]) -> bool:
        """Whether every instruction and goal of the round has been heard of."""
        heard = all(self._terminal[id] for id in ids) and all(self._results[id] for id in goals)
        return heard and all(quote.done() for quote in self._quoted)

    def _disturb(self, rng: random.Random, how: str, id: str) -> None:
        """What happens in the middle of a round."""
        for _ in range(3):
            odd = Transition(id=rng.choice((0, 1, 2, 3, 8, 10, 11, 60, 99, 255)))
            self._change.call_async(ChangeState.Request(transition=odd))
        values = [
            Parameter(name="pessimism", value=ParameterValue(type=rng.randrange(256))),
            Parameter(name="risk", value=ParameterValue(type=3, double_value=rng.random() / 2)),
        ]
        if how == "parameters":
            self._set.call_async(SetParameters.Request(parameters=values))
        elif how == "inactive":
            self._node.deactivate()
            self._node.activate()
        elif how == "vanish":
            with Session("vanishing", self._node.domain) as session:
                client = ActionClient(session.node, Instruct, f"{self._node.name}/instruct")
                session.spin_until(client.server_is_ready, PATIENCE)
                lost = Instruction(id=f"{id}-lost", prompt="stop", budget=duration_msg(5.0))
                client.send_goal_async(Instruct.Goal(instruction=lost))
                session.spin_until(lambda: False, 0.05)

    def _send_goal(self, rng: random.Random, id: str) -> None:
        """Send a goal, cancel it perhaps, and count its results."""
        instruction, cancels = self._draw(rng, id), rng.random() < 0.3

        def accepted(sent: object) -> None:
            handle = sent.result()
            handle.get_result_async().add_done_callback(lambda _: self._results.update([id]))
            if cancels:
                handle.cancel_goal_async()

        self._goals.send_goal_async(Instruct.Goal(instruction=instruction)).add_done_callback(
            accepted
        )

    def _end_by_signal(self, rng: random.Random) -> None:
        """End the node while it works, and start another."""
        number = rng.choice((signal.SIGINT, signal.SIGTERM))
        self._node.process.send_signal(number)
        ended = self._session.spin_until(lambda: self._node.process.poll() is not None, PATIENCE)
        if not ended or self._node.process.returncode != 0:
            self.violations.append(f"{number.name}: status {self._node.process.returncode}")
        self._node.stop()
        self._node.start(PATIENCE)
        self.serve()

    def _judge(self, seed: int, ids: list[str], goals: set[str], *, missing_allowed: bool) -> None:
        for id in ids:
            number = self._terminal[id]
            if number > 1 or (number == 0 and not missing_allowed):
                self.violations.append(f"seed {seed}: {number} terminal messages for {id}")
            if id in goals and self._results[id] != 1:
                self.violations.append(f"seed {seed}: {self._results[id]} results for goal {id}")

    def _look_at_process(self, seed: int) -> None:
        """Compare what the process holds with what it held after the first rounds."""
        held = held_by(self._node.process.pid)
        if self._rounds == _SETTLING:
            self._first = held
        if self._first is None:
            return
        for name, most in _MOST_GROWTH.items():
            growth = held[name] - self._first[name]
            if growth > most:
                self.violations.append(f"seed {seed}: {name} grew by {growth:g}")
                self._first = held

    def _heard(self, message: Response | Overrun) -> None:
        if isinstance(message, Overrun) and message.reason == Overrun.LATE:
            return
        self._terminal[message.id] += 1
        kind = "answered" if isinstance(message, Response) else f"overrun {message.reason}"
        self.counts[kind] += 1
        answered = isinstance(message, Response) and message.finish_reason != Response.FALLBACK
        if answered and message.id in self._doomed:
            self.violations.append(f"{message.id} was answered although the engine failed")
        if isinstance(message, Overrun) and message.reason == Overrun.FAILED:
            self.counts["failed: " + message.detail.split(":")[0]] += 1
            # A schema that its few tokens cannot satisfy is no fault of a part.
            if message.id not in self._doomed and not message.detail.startswith("max_tokens"):
                self.violations.append(f"{message.id} failed: {message.detail}")

    def _connected(self) -> bool:
        ros, name = self._session.node, self._node.name
        outputs = (f"{name}/output/response", f"{name}/output/overrun")
        return (
            self._publisher.get_subscription_count() == 1
            and all(ros.count_publishers(topic) == 1 for topic in outputs)
            and self._goals.server_is_ready()
            and self._quotes.service_is_ready()
        )

    def _until(self, what: str, done: object) -> None:
        if not self._session.spin_until(done, PATIENCE):
            raise TimeoutError(what)
        # The node learns of us a moment after we learn of it.
        self._session.spin_until(lambda: False, 1.0)


def held_by(pid: int) -> dict[str, float]:
    """Memory, open descriptors and threads of a process."""
    process = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "memory_mb": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def _command(settings: Mapping[str, str | int | float]) -> list[str]:
    """The node's command line with the faulty node's file in the place of the package's module."""
    command = node_command(settings, "", ())
    module = command.index("-m")
    return [*command[:module], str(FAULTY_NODE), *command[module + 3 :]]


def run(first_seed: int, instructions: int) -> list[str]:
    """Run rounds until so many instructions were sent; what broke the contract."""
    rounds = -(-instructions // ROUND)
    with (
        tempfile.TemporaryDirectory() as profiles,
        NodeProcess(command=_command({**_SETTINGS, "profile_cache": profiles})) as node,
    ):
        soak = Soak(node)
        seed, told = first_seed, 0
        try:
            for seed in range(first_seed, first_seed + rounds):
                started = time.monotonic()
                soak.round(seed)
                held = ", ".join(f"{k} {v:.0f}" for k, v in held_by(node.process.pid).items())
                print(f"seed {seed}: {time.monotonic() - started:.1f} s; {held}", flush=True)
                for violation in soak.violations[told:]:
                    print(violation, flush=True)
                told = len(soak.violations)
        except KeyboardInterrupt:
            print(f"go on with --first-seed {seed}", file=sys.stderr)
        finally:
            soak.close()
    print(", ".join(f"{count} {kind}" for kind, count in sorted(soak.counts.items())))
    return soak.violations


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if the contract was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args(arguments)
    violations = run(options.first_seed, options.instructions)
    print("\n".join(violations) or "exactly one terminal message for each instruction")
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
