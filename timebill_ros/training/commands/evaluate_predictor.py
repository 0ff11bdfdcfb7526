# SPDX-License-Identifier: Apache-2.0
"""Measure a response length predictor on collected lengths that it has not met."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import PAPER_PESSIMISM
from timebill_ros.node.command_line import command_parser
from timebill_ros.predictor.checkpoint import other_target, read_config
from timebill_ros.predictor.errors import EmptySet, LengthsBeyondBuckets, PredictorError
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, read_pairs, seen_prompts
from timebill_ros.training.progress import hide_library_bars, track

if TYPE_CHECKING:  # they load torch: not before the arguments are known to be good
    from timebill_ros.predictor.length_predictor import LengthPredictor
    from timebill_ros.training.predictor.assessment import Assessment, Tokens

_LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures, and write them where asked; 0 if there are any."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    hide_library_bars()
    from timebill_ros.engine.errors import CheckpointError

    try:
        assessment = _evaluate(options)
        _write(assessment, options)
    except (PredictorError, SettingError, CheckpointError, OSError) as failure:
        print(f"evaluate-predictor: {harmless_line(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(table(assessment)))
    return 0


def table(assessment: Assessment) -> Iterator[str]:
    """The figures, one per line with what they mean."""
    quality = assessment.quality
    yield f"{quality.pairs:>10}  pairs"
    yield f"{quality.mae:>10.2f}  MAE of N_hat, tokens (always the mean: {quality.mae_of_mean:.2f})"
    yield f"{quality.mae_of_middle:>10.2f}  MAE of the bucket's middle, tokens"
    yield f"{quality.rmse:>10.2f}  RMSE of N_hat, tokens"
    yield f"{quality.r2:>10.3f}  R2 of N_hat"
    yield f"{quality.bucket_accuracy:>10.3f}  right bucket"
    yield f"{quality.covered:>10.3f}  N <= N_hat"
    yield f"{assessment.covered_by_pessimism:>10.3f}  N <= N_W, pessimism {assessment.pessimism:g}"
    kind = "calibrated" if assessment.calibrated else "as predicted"
    for risk, share in assessment.covered_by_risk.items():
        yield f"{share:>10.3f}  N <= N_W, risk {risk:g} ({kind}; right is {1.0 - risk:g})"
    if min(quality.mae, quality.mae_of_middle) >= quality.mae_of_mean:
        yield "This predictor is worse than always the mean length: do not use it."


def _evaluate(options: argparse.Namespace) -> Assessment:
    from timebill_ros.predictor.checkpoint import read_calibration
    from timebill_ros.predictor.length_predictor import load_predictor
    from timebill_ros.training.predictor.assessment import assess, predict_pairs

    folder: Path = options.predictor
    config = read_config(folder)
    predictor = load_predictor(folder, device=options.device, threads=options.threads or None)
    header, pairs = read_pairs(options.pairs)
    if other := other_target(folder, config, header.target_id, header.target):
        _LOG.warning("%s", other)
    if header.longest_response > config["longest_response"]:
        raise LengthsBeyondBuckets(folder, config["longest_response"], header.longest_response)
    unseen = _unseen(folder, header, pairs, options)
    tokens = _tokens(predictor, options.model, header)
    predicted = predict_pairs(predictor, track(unseen, "measuring"), tokens)
    return assess(
        predicted,
        unseen,
        header.longest_response,
        pessimism=options.pessimism,
        calibration=read_calibration(folder),
    )


def _unseen(
    folder: Path, header: PairsHeader, pairs: list[Pair], options: argparse.Namespace
) -> list[Pair]:
    """The pairs that the predictor has not met: all of them, unless others may be left out."""
    from timebill_ros.training.predictor.assessment import check_unseen

    seen = seen_prompts(folder)
    if seen is None:
        _LOG.warning(
            "predictor %s does not tell which prompts it was trained on: whether it has met these "
            "pairs is not checked",
            folder,
        )
        return pairs
    if not options.leave_out_seen:
        check_unseen(folder, seen, options.pairs, header)
        return pairs
    unseen = [pair for pair in pairs if pair.digest not in seen]
    _LOG.info(
        "%d of %d pairs were met in training and are left out", len(pairs) - len(unseen), len(pairs)
    )
    if not unseen:
        raise EmptySet(", ".join(map(str, options.pairs)), "pairs that the predictor has not met")
    return unseen


def _tokens(predictor: LengthPredictor, model: str, header: PairsHeader) -> Tokens | None:
    """How to get the target's tokens, for a predictor that reads these."""
    from timebill_ros.engine.checkpoint import checkpoint_folder
    from timebill_ros.engine.tokenizer import load_tokenizer
    from timebill_ros.predictor.embedded_predictor import EmbeddedPredictor
    from timebill_ros.runtime.models import model_folder

    if not isinstance(predictor, EmbeddedPredictor):
        return None
    name = model or header.target_id
    tokenizer = load_tokenizer(checkpoint_folder(model_folder(Settings(model=name))))
    return lambda text: tokenizer.encode(text, add_special_tokens=tokenizer.chat_template is None)


def _write(assessment: Assessment, options: argparse.Namespace) -> None:
    figures = assessment.figures()
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.csv is not None:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("figure", "value"))
            writer.writerows((name, "" if v is None else v) for name, v in figures.items())


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate-predictor", __doc__)
    parser.add_argument("predictor", type=Path, help="checkpoint directory")
    parser.add_argument("pairs", type=Path, nargs="+", help="JSON lines that collect wrote")
    parser.add_argument(
        "--leave-out-seen", action="store_true", help="measure on those pairs that were held out"
    )
    parser.add_argument(
        "--pessimism", type=float, default=PAPER_PESSIMISM, help="k, as the node's parameter"
    )
    parser.add_argument(
        "--model",
        default="",
        help="the target, where it is not under the name in the pairs' header",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument("--csv", type=Path, help="file to write the figures to")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
