# SPDX-License-Identifier: Apache-2.0
"""The demo of a real model: real instructions, with budgets that follow from its profile here."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ament_index_python import get_package_share_directory

import timebill_ros.msg as msg
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.cli.deadline_run import (
    NodeLog,
    RunFailed,
    print_outcomes,
    send_in_groups,
    write_files,
)
from timebill_ros.cli.real_instructions import (
    INSTRUCTIONS,
    LEGEND,
    TOGETHER,
    BudgetRule,
    RealInstruction,
)
from timebill_ros.client.client import NodeAbsent
from timebill_ros.client.node_process import NodeProcess, NodeProcessError
from timebill_ros.client.record import Ending, Record
from timebill_ros.node.command_line import command_parser
from timebill_ros.node.conversions import duration_msg
from timebill_ros.replay.recording import BadInput
from timebill_ros.replay.simulated import load_time_model, recalled_profile
from timebill_ros.runtime.harmless import harmless_line, harmless_text
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.settings import Settings

_PRESET = "smollm2-135m-instruct"
_CONFIGURE = 900.0  # s, within which the slowest of machines has loaded and profiled the model
_TEXT_WIDTH = 96
_SHOWN = 400  # characters of an answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if every instruction had an outcome that a deadline explains."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # An orderly end, so that the node's process ends with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        parameters = read_preset(options.preset) | {"overrun_policy": options.policy}
        if options.model is not None:
            parameters["model"] = str(options.model)
        if options.threads is not None:
            parameters["threads"] = options.threads
        options.out.mkdir(parents=True, exist_ok=True)
        asked, records = _run(parameters)
        for record in records:
            _show_answer(record, asked[record.id])
        print_outcomes(records)
        title = f"{Path(parameters['model']).name}, policy {options.policy}. Budgets: {LEGEND}"
        write_files(options.out / "real", records, title)
        check(records)
    except (NodeProcessError, NodeAbsent, BadInput, RunFailed, OSError) as failure:
        print(f"demo-real: {harmless_text(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("demo-real", __doc__)
    parser.add_argument("--model", help="as the node's parameter; default: the preset's")
    parser.add_argument("--preset", default=_PRESET, help="of the installed config/presets")
    parser.add_argument("--threads", type=int, help="as the node's parameter")
    policies = [policy.value for policy in OverrunPolicy]
    parser.add_argument("--policy", choices=policies, default=OverrunPolicy.ANYTIME.value)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of picture and CSV")
    return parser


def read_preset(name: str) -> dict[str, Any]:
    """The node's parameters in the preset of that name.

    Raises:
        RunFailed: there is none; the message names those that there are.
    """
    folder = Path(get_package_share_directory("timebill_ros"), "config", "presets")
    path = folder / f"{name}.param.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.name.split(".param")[0] for file in folder.glob("*.yaml")))
        raise RunFailed(f"there is no preset {name!r}; there are {known}")
    parameters: dict[str, Any] = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    return parameters


def _run(parameters: dict[str, Any]) -> tuple[dict[str, RealInstruction], list[Record]]:
    """Have the node profile the model as the machine is now, then send it the instructions."""
    with tempfile.TemporaryDirectory() as profiles:
        parameters = parameters | {"profile_cache": profiles}
        settings = Settings(**parameters)
        count_tokens = _token_counter(settings)
        with NodeProcess(parameters, on_log=NodeLog().add) as node:
            print(f"node {node.name}: process {node.process.pid}, ROS domain {node.domain}")
            node.configure(_CONFIGURE)
            node.activate()
            model = load_time_model(recalled_profile(settings))
            asked = [
                prepare(number, instruction, count_tokens(instruction), model)
                for number, instruction in enumerate(INSTRUCTIONS, start=1)
            ]
            print("\n".join(["", *budget_table(asked, model)]))
            messages = [one.message() for one in asked]
            groups = [[message] for message in messages[:-TOGETHER]] + [messages[-TOGETHER:]]
            tokens = {one.id: one.prompt_tokens for one in asked}
            records = send_in_groups(node, groups, tokens, LEGEND)
            node.shutdown()
    return {one.id: one.instruction for one in asked}, records


def _token_counter(settings: Settings) -> Callable[[RealInstruction], int]:
    """Counts an instruction's N_x, as the node's engine will."""
    # Pulls in torch: not before the arguments are known to be good.
    from timebill_ros.engine.checkpoint import checkpoint_folder
    from timebill_ros.engine.errors import CheckpointError
    from timebill_ros.engine.prompt import PromptEncoder
    from timebill_ros.engine.request import Conversation
    from timebill_ros.engine.tokenizer import load_tokenizer
    from timebill_ros.runtime.models import model_folder

    try:
        tokenizer = load_tokenizer(checkpoint_folder(model_folder(settings)))
    except CheckpointError as error:
        raise RunFailed(str(error)) from error
    encoder = PromptEncoder(tokenizer, settings.max_context or sys.maxsize)
    return lambda one: len(encoder.encode(Conversation("", one.text))[1])


@dataclass(frozen=True)
class Asked:
    """An instruction with what the profile makes of it: N_x, and T in s."""

    id: str
    instruction: RealInstruction
    prompt_tokens: int
    budget: float

    def message(self) -> msg.Instruction:
        """As it is sent."""
        return msg.Instruction(
            id=self.id,
            prompt=self.instruction.text,
            max_tokens=self.instruction.max_tokens,
            budget=duration_msg(self.budget),
        )


def prepare(
    number: int, instruction: RealInstruction, prompt_tokens: int, model: TimeModel
) -> Asked:
    """The instruction with its id and its budget on this machine."""
    budget = instruction.budget.seconds(model, prompt_tokens, instruction.max_tokens)
    return Asked(f"{instruction.budget.letter}{number:02}", instruction, prompt_tokens, budget)


def budget_table(asked: Sequence[Asked], model: TimeModel) -> Iterator[str]:
    """How the budgets follow from the profile, a line each."""
    yield f"{'':6}{'prompt':>8}{'answer':>8}{'predicted s':>20}{'budget':>9}"
    yield f"{'id':6}{'tokens':>8}{'at most':>8}{'prefill':>10}{'worst':>10}{'s':>9}  which is"
    for one in asked:
        prefill = model.prefill(one.prompt_tokens)
        worst = prefill + model.decode(one.prompt_tokens, one.instruction.max_tokens)
        yield (
            f"{one.id:6}{one.prompt_tokens:>8}{one.instruction.max_tokens:>8}{prefill:>10.3f}"
            f"{worst:>10.3f}{one.budget:>9.3f}  {one.instruction.budget.value}"
        )


def _show_answer(record: Record, instruction: RealInstruction) -> None:
    about = f" (after {len(instruction.document):,} characters)" if instruction.document else ""
    text = harmless_text(record.text)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
    print(f"\n{harmless_line(record.id)}, {record.outcome}{about}:")
    for name, said in (("instruction", instruction.prompt), ("answer", shown or "-")):
        first = f"  {name:12}"
        print(textwrap.fill(said, _TEXT_WIDTH, initial_indent=first, subsequent_indent=" " * 14))


def check(records: Sequence[Record]) -> None:
    """Every instruction ended as a deadline can make it end, and the unhurried one was answered.

    How many are in time depends on what else runs on the machine: that is told, not judged.

    Raises:
        RunFailed: with every failure.
    """
    faults = [
        f"{record.id} was {record.ending}: {record.detail}"
        for record in records
        if not record.ending.missed and record.ending is not Ending.IN_TIME
    ]
    unhurried = BudgetRule.UNHURRIED.letter
    if not any(r.ending is Ending.IN_TIME for r in records if r.id.startswith(unhurried)):
        faults.append("the unhurried instruction was not answered")
    if faults:
        raise RunFailed("; ".join(faults))


if __name__ == "__main__":
    sys.exit(main())
