# SPDX-License-Identifier: Apache-2.0
"""Collect the lengths of a model's answers, which its length predictor is to learn."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from timebill_ros.budget.errors import SettingError
from timebill_ros.cli.arguments import add_parameters, positive_count, take_settings
from timebill_ros.node.command_line import command_parser
from timebill_ros.predictor.errors import EmptySet, PairsError
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.serving_threads import wait_passively
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.progress import Lines

if TYPE_CHECKING:  # they load torch: not before the arguments are known to be good
    from timebill_ros.engine.checkpoint import Checkpoint
    from timebill_ros.training.collection.prompts import Prompt

_LOG = logging.getLogger(__name__)

_PARTS = 6  # layers whose states are kept, evenly spread
_EVERY = 16  # tokens between two states of an answer

# Those of the node's parameters that an answer's length depends on, and where it is generated.
_PARAMETERS = (
    *("model", "device", "dtype", "weights", "threads", "max_context", "chunk"),
    *("max_tokens", "temperature", "top_p", "seed", "stop"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the prompts that have no length yet; 0 if there are lengths then."""
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = take_settings(parser, vars(options), _PARAMETERS)
    log_to_stderr()
    wait_passively()
    from timebill_ros.engine.errors import EngineError

    try:
        with logging_redirect_tqdm():
            fates = _collect(settings, options)
    except (PairsError, BadInput, SettingError, EngineError, OSError) as failure:
        print(f"collect: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{options.output}: " + ", ".join(f"{count} {fate}" for fate, count in fates.items()))
    return 0


def _collect(settings: Settings, options: argparse.Namespace) -> Counter[str]:
    from timebill_ros.engine.checkpoint import load_checkpoint
    from timebill_ros.engine.factory import make_engine
    from timebill_ros.runtime.loading import engine_settings
    from timebill_ros.runtime.models import model_folder
    from timebill_ros.training.collection.collect import Fate, collect, describe_target
    from timebill_ros.training.collection.states import StatesHeader

    checkpoint = load_checkpoint(
        model_folder(settings), device=settings.device, dtype=settings.dtype
    )
    chosen = engine_settings(settings)
    engine = make_engine(checkpoint, chosen)
    header = describe_target(settings.model, checkpoint, chosen, settings.max_tokens)
    # All of them first: a bad line should be told now, and not after hours of answers.
    prompts = list(islice(_part(_prompts(options, checkpoint), *options.part), options.count))
    fates: Counter[str] = Counter()
    states = None
    if options.states:
        layers = checkpoint.model.config.num_hidden_layers
        taken = sorted({-(-layers * part // _PARTS) for part in range(1, _PARTS + 1)})
        states = StatesHeader(tuple(taken), _EVERY, checkpoint.model.config.hidden_size)
    lines = Lines("collecting, prompts", len(prompts))

    def beginning() -> Iterator[Prompt]:
        for number, prompt in enumerate(prompts):
            if bar.disable:  # a log; long prompts take minutes before the first is answered
                lines.tell(fates.total(), f"{number} begun")
            yield prompt

    with tqdm(total=len(prompts), unit="prompt", disable=None) as bar:
        for fate in collect(
            engine, beginning(), options.output, header, together=options.together, states=states
        ):
            fates[fate] += 1
            bar.set_postfix(fates, refresh=False)
            bar.update()
            if bar.disable:
                lines.tell(fates.total())
    if not fates[Fate.ANSWERED] + fates[Fate.KNOWN]:
        raise EmptySet(_source(options), "prompts that the model can answer")
    return fates


def _prompts(options: argparse.Namespace, checkpoint: Checkpoint) -> Iterator[Prompt]:
    """The prompts of whichever source is named."""
    from timebill_ros.training.collection.prompts import (
        read_prompts,
        read_public_set,
        read_templates,
    )

    chat_template = checkpoint.tokenizer.chat_template is not None
    if not chat_template:
        _LOG.warning("the model has no chat template: system and prompt are simply put together")
    if options.prompts is not None:
        return read_prompts(options.prompts, chat_template=chat_template)
    if options.bag is not None:
        return _recorded_prompts(options.bag, chat_template=chat_template)
    templates = {} if options.templates is None else read_templates(options.templates)
    return read_public_set(
        options.dataset, subsets=options.subset, split=options.split, templates=templates
    )


def _recorded_prompts(bag: Path, *, chat_template: bool) -> Iterator[Prompt]:
    """The instructions of a rosbag2, in order of recording.

    Raises:
        BadInput: it cannot be read, holds none, or one with earlier turns for a model without a
            chat template.
    """
    from timebill_ros.node.conversions import conversation_of
    from timebill_ros.replay.bag import Bag
    from timebill_ros.training.collection.prompts import Prompt

    recording = Bag(bag)
    for note in recording.notes:
        _LOG.warning(note)
    for each in recording.recorded:
        message = each.instruction
        source = f"{bag}, instruction {message.id}"
        if message.messages and not chat_template:
            raise BadInput(f"{source}: field messages needs a target with a chat template")
        yield Prompt(source, conversation_of(message))


def _part(prompts: Iterable[Prompt], part: int, parts: int) -> Iterator[Prompt]:
    """Every ``parts``-th prompt, from number ``part`` on, counted from 1."""
    return islice(prompts, part - 1, None, parts)


def _source(options: argparse.Namespace) -> str:
    return str(options.prompts or options.bag or options.dataset)


def _part_of(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 2/8")
    return int(part), int(parts)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "collect",
        __doc__,
        epilog="Run again, it goes on where it stopped. Several processes, each with its own "
        "--part, device and output, share the work.",
    )
    parser.add_argument("output", type=Path, help="JSON lines to write or to go on with")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompts", type=Path, help="JSON lines with prompt and maybe system, or with messages"
    )
    source.add_argument("--bag", type=Path, help="rosbag2 of instructions, sqlite3 or mcap")
    source.add_argument("--dataset", help="public set: hub id, or a local file or folder")
    parser.add_argument("--subset", nargs="*", default=[], help="configurations of the set")
    parser.add_argument("--split", default="train", help="which part of the set")
    parser.add_argument(
        "--templates", type=Path, help="LongBench's dataset2prompt.json, to word its tasks"
    )
    parser.add_argument("--count", type=positive_count, help="most prompts to take")
    parser.add_argument(
        "--part", type=_part_of, default=(1, 1), metavar="I/N", help="every N-th prompt from I on"
    )
    parser.add_argument(
        "--together",
        type=positive_count,
        default=16,
        help="answers that grow side by side: many take hardly longer than one (default: 16)",
    )
    parser.add_argument(
        "--states",
        action="store_true",
        help="keep the target's hidden states beside the lengths, for a predictor that reads them",
    )
    add_parameters(parser, _PARAMETERS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
