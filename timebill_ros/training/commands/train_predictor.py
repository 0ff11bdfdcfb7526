# SPDX-License-Identifier: Apache-2.0
"""Train a response length predictor on collected lengths.

`accelerate launch -m timebill_ros train-predictor ...` uses several GPUs or hosts.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import PAPER_PESSIMISM
from timebill_ros.cli.arguments import positive_count
from timebill_ros.node.command_line import command_parser
from timebill_ros.predictor.errors import PredictorError
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.predictor.pairs import PairsHeader, Split, read_pairs, split_pairs
from timebill_ros.training.predictor.sequence_training import Recipe
from timebill_ros.training.progress import hide_library_bars, track

_LOG = logging.getLogger(__name__)

# The paper's, and what stands in for it where no hub can be reached.
_PAPER = "Qwen/Qwen2.5-0.5B-Instruct"
_EMBEDDED = "embedded"

_HELP = {
    "bucket_size": "B, tokens per bucket",
    "max_input": "longest input, tokens; of longer prompts head and tail stay",
    "epochs": "passes over the training pairs",
    "batch": "prompts per step and device",
    "learning_rate": "at its peak",
    "seed": "of split, order and head",
    "calibration": "share of the pairs that calibrates",
    "held_out": "share of the pairs that is measured on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, calibrate, measure; 0 if the predictor is there then."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    hide_library_bars()
    from timebill_ros.engine.errors import CheckpointError

    try:
        _train(options)
    except (PredictorError, SettingError, CheckpointError, OSError) as failure:
        print(f"train-predictor: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _train(options: argparse.Namespace) -> None:
    import torch

    from timebill_ros.engine.checkpoint import target_fingerprint
    from timebill_ros.training.predictor.sequence_training import train_classifier

    if options.threads:
        torch.set_num_threads(options.threads)
    header, pairs = read_pairs(options.pairs)
    name, backbone = find_backbone(options.backbone)
    given = {option: getattr(options, option) for option in _HELP}
    recipe = Recipe(name, target_fingerprint(backbone), **given)
    split = split_pairs(
        pairs, recipe.seed, calibration=recipe.calibration, held_out=recipe.held_out
    )
    sizes = ", ".join(f"{len(part)} {part_name}" for part_name, part in split.parts())
    _LOG.info("target %s (%s): %s pairs", header.target_id, header.target, sizes)
    main_process = train_classifier(
        split,
        header,
        recipe,
        backbone,
        options.output,
        save_every=options.save_every,
        use_cpu=options.cpu,
    )
    if main_process:
        _finish(options, split, header)


def _finish(options: argparse.Namespace, split: Split, header: PairsHeader) -> None:
    """Calibrate and measure what was written, as the node will load it."""
    import torch

    from timebill_ros.predictor.length_predictor import load_predictor
    from timebill_ros.training.commands.evaluate_predictor import table
    from timebill_ros.training.predictor.assessment import assess, calibrate, predict_pairs
    from timebill_ros.training.predictor.sequence_training import discard_states, write_provenance

    device = "cuda" if torch.cuda.is_available() and not options.cpu else "cpu"
    predictor = load_predictor(options.output, device=device)
    predicted = predict_pairs(predictor, track(split.calibration, "calibrating"))
    calibration = calibrate(options.output, predicted, split.calibration)
    held_out = assess(
        predict_pairs(predictor, track(split.held_out, "measuring")),
        split.held_out,
        header.longest_response,
        pessimism=PAPER_PESSIMISM,
        calibration=calibration,
    )
    write_provenance(options.output, {"held_out": held_out.figures()})
    discard_states(options.output)
    print("\n".join([f"{options.output}, held-out pairs:", *table(held_out)]))


def find_backbone(choice: str) -> tuple[str, Path]:
    """The name and the directory of the model to start from; 'auto' says in the log what it took.

    Raises:
        CheckpointNotFound: a model that was named is not there.
    """
    from timebill_ros.engine.checkpoint import checkpoint_folder
    from timebill_ros.engine.errors import CheckpointNotFound
    from timebill_ros.runtime.models import model_folder

    embedded = Path(model_folder(Settings(model=_EMBEDDED)))
    if choice == _EMBEDDED:
        return _EMBEDDED, embedded
    if choice != "auto":
        return choice, checkpoint_folder(choice)
    try:
        folder = checkpoint_folder(_PAPER)
    except CheckpointNotFound as absent:
        _LOG.warning(
            "%s; the backbone is the embedded model's instead, which knows little language", absent
        )
        return _EMBEDDED, embedded
    _LOG.info("the backbone is %s", _PAPER)
    return _PAPER, folder


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "train-predictor",
        __doc__,
        epilog="Run again after a crash, it goes on from its last state.",
    )
    parser.add_argument("output", type=Path, help="checkpoint directory to write")
    parser.add_argument("pairs", type=Path, nargs="+", help="JSON lines that collect wrote")
    parser.add_argument(
        "--backbone",
        default="auto",
        help=f"model to start from: directory or hub id; auto: {_PAPER}, or where no hub can be "
        "reached the embedded model, which is also named 'embedded'",
    )
    for field in fields(Recipe):
        if field.name in _HELP:
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                help=f"{_HELP[field.name]} ({field.default:g})",
            )
    parser.add_argument(
        "--save-every", type=positive_count, default=500, help="steps between saved states (500)"
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU, even if there is one")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
