# SPDX-License-Identifier: Apache-2.0
"""The demo: the node in a process of its own, and instructions with deadlines over DDS."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timebill_ros.msg as msg
from timebill_ros.cli.deadline_run import (
    SPARE,
    NodeLog,
    RunFailed,
    print_outcomes,
    send_in_groups,
    write_files,
)
from timebill_ros.cli.scenario import Look, Request, draw_tasks, plan_run
from timebill_ros.client.client import InstructionClient, NodeAbsent
from timebill_ros.client.node_process import NodeProcess, NodeProcessError
from timebill_ros.client.record import Ending, Record
from timebill_ros.node.command_line import command_parser
from timebill_ros.node.conversions import duration_msg
from timebill_ros.runtime.harmless import harmless_line, harmless_text
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.settings import Settings
from timebill_ros.workload.score import exact_match
from timebill_ros.workload.tasks import Task

_IDS = "Budgets: c comfortable, t tight (part of the prompt or its cache has to go), h hopeless"
_OVERRIDES = ("model", "device", "threads", "overrun_policy", "prefix_tokens")
_UNHURRIED = 600.0  # s; budget of the answers that show how fast this machine is
_CONFIGURE = 600.0  # s
_TEXT_WIDTH = 96


@dataclass(frozen=True)
class Run:
    """The instructions of a run with their tasks, and what became of them."""

    tasks: Sequence[Task]
    requests: Sequence[Request]
    records: Sequence[Record]

    def task_of(self, record: Record) -> Task:
        """The task that an instruction posed."""
        return next(self.tasks[r.task] for r in self.requests if r.id == record.id)

    def correct(self, record: Record) -> bool:
        """Whether the answer equals the task's reference."""
        return exact_match(record.text, self.task_of(record).reference) == 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if it showed what it should."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # An orderly end, so that the node's process ends with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = Settings(
        model=options.model,
        device=options.device,
        threads=options.threads,
        overrun_policy=options.policy,
        # Each task is asked several times. Its prompt must cost what a new one costs.
        prefix_tokens=0,
    )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        run = _run(settings, options.seed)
        name = Path(options.model).name
        _report(run, options.out, f"model {name} on {options.device}, policy {options.policy}")
        check(run.records)
    except (NodeProcessError, NodeAbsent, RunFailed, OSError) as failure:
        print(f"demo: {harmless_text(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = command_parser("demo", __doc__)
    policies = [policy.value for policy in OverrunPolicy]
    parser.add_argument("--policy", choices=policies, default=defaults.overrun_policy)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of picture and CSV")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks")
    parser.add_argument("--model", default=defaults.model, help="as the node's parameter")
    parser.add_argument("--device", default=defaults.device, help="as the node's parameter")
    parser.add_argument(
        "--threads", type=int, default=defaults.threads, help="as the node's parameter"
    )
    return parser


def _run(settings: Settings, seed: int) -> Run:
    """Start the node, have the tasks answered without hurry, then with deadlines."""
    overrides = {name: getattr(settings, name) for name in _OVERRIDES}
    tasks = draw_tasks(seed)
    with NodeProcess(overrides, on_log=NodeLog().add) as node:
        print(f"node {node.name}: process {node.process.pid}, ROS domain {node.domain}")
        node.configure(_CONFIGURE)
        node.activate()
        with InstructionClient(server=node.name, domain=node.domain, by_topic=True) as client:
            client.wait_for_node()
            looks = _look(client, tasks)
        groups = plan_run(looks)
        requests = [request for group in groups for request in group]
        records = send_in_groups(
            node,
            [[_instruction(r.id, tasks[r.task], r.budget) for r in group] for group in groups],
            {request.id: looks[request.task].prompt_tokens for request in requests},
            _IDS,
        )
        node.shutdown()
    return Run(tasks, requests, records)


def _look(client: InstructionClient, tasks: Sequence[Task]) -> list[Look]:
    """Have every task answered without hurry, to learn how long it takes on this machine.

    The faster of two answers counts: whatever else runs here can only make one slower.
    """
    print(f"{len(tasks)} tasks without hurry, to learn how long they take here", flush=True)
    looks = []
    for number, task in enumerate(tasks):
        answers = [_unhurried(client, f"look{number}{attempt}", task) for attempt in "ab"]
        looks.append(min(answers, key=lambda look: look.execution))
    times = [look.execution for look in looks]
    print(f"they took {min(times):.3f} to {max(times):.3f} s")
    return looks


def _unhurried(client: InstructionClient, name: str, task: Task) -> Look:
    exchange = client.send(_instruction(name, task, _UNHURRIED))
    client.wait_for_all(_UNHURRIED + SPARE)
    record = exchange.record()
    if record is None or record.plan is None or record.ending is not Ending.IN_TIME:
        told = f"{record.ending}: {record.detail}" if record else "nothing was heard of it"
        raise RunFailed(f"{task.instruction!r} was not answered without hurry: {told}")
    timing = record.timing
    return Look(
        prompt_tokens=record.prompt_tokens,
        spent=timing.total - timing.queued - timing.evict - timing.decode,
        decode=timing.decode,
        wcet=record.plan.wcet,
    )


def _instruction(name: str, task: Task, budget: float) -> msg.Instruction:
    return msg.Instruction(
        id=name, system=task.system, prompt=task.instruction, budget=duration_msg(budget)
    )


def _report(run: Run, folder: Path, title: str) -> None:
    """Say what came out, and leave the picture and the file."""
    in_time = [record for record in run.records if record.ending is Ending.IN_TIME]
    answered = [record for record in in_time if not record.truncated]
    if answered:
        # The right answer from the least of its prompt tells most.
        shown = min(answered, key=lambda r: (not run.correct(r), r.plan.kept if r.plan else 1.0))
        _show_answer(run, shown)
    print_outcomes(run.records)
    correct = sum(run.correct(record) for record in answered)
    print(f"whole answers in time that equal the reference: {correct} of {len(answered)}")
    write_files(folder / "demo", run.records, f"{title}.  {_IDS}")


def _show_answer(run: Run, record: Record) -> None:
    task = run.task_of(record)
    rho, alpha = (record.plan.rho, record.plan.alpha) if record.plan else (1.0, 0.0)
    correct = run.correct(record)
    equal = "equals" if correct else "differs from"
    given_up = f"rho {rho:.2f}, alpha {alpha:.2f}"
    print(f"\n{harmless_line(record.id)}, {given_up}, the answer {equal} the reference:")
    texts = {"instruction": task.instruction, "answer": record.text}
    if not correct:
        texts["reference"] = task.reference
    for name, text in texts.items():
        first = f"  {name:12}"
        print(
            textwrap.fill(
                harmless_text(text), _TEXT_WIDTH, initial_indent=first, subsequent_indent=" " * 14
            )
        )


def check(records: Sequence[Record]) -> None:
    """All three kinds of outcome, and none that a budget cannot cause.

    Raises:
        RunFailed: with every kind that is missing and every failure.
    """
    plans = [r.plan for r in records if r.plan and r.ending is Ending.IN_TIME]
    kinds = {
        "an answer in time from the whole prompt": not all(plan.gives_up for plan in plans),
        "an answer in time with part of the prompt given up": any(p.gives_up for p in plans),
        "an overrun": any(record.ending.missed for record in records),
    }
    faults = [f"{kind} did not occur" for kind, occurred in kinds.items() if not occurred]
    faults += [
        f"{record.id} was {record.ending}: {record.detail}"
        for record in records
        if not record.ending.missed and record.ending is not Ending.IN_TIME
    ]
    if faults:
        raise RunFailed("; ".join(faults))


if __name__ == "__main__":
    sys.exit(main())
