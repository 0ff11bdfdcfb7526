# SPDX-License-Identifier: Apache-2.0
"""Measure what eviction and selection cost a model, for the planner 'expected'."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from timebill_ros.bench.command import PARAMETERS, add_workload, answered, cases_of
from timebill_ros.bench.curves import eviction_curve, selection_curve, table
from timebill_ros.bench.errors import BenchError
from timebill_ros.budget.errors import ProfileFitError, QualityFileError, SettingError
from timebill_ros.budget.quality import QUALITY_FILE, QualityFile, read_quality, write_quality
from timebill_ros.cli.node_arguments import take_settings
from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.progress import hide_library_bars


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the workload after every lever and write the curves; 0 if that worked."""
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = take_settings(parser, vars(options), PARAMETERS)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    hide_library_bars()
    from timebill_ros.engine.errors import EngineError
    from timebill_ros.predictor.errors import PredictorError

    try:
        print("\n".join(_measure(options, settings)))
    except (
        *(BenchError, SettingError, ProfileFitError, QualityFileError),
        *(EngineError, PredictorError, OSError),
    ) as bad:
        print(f"measure-quality: {bad}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(options: argparse.Namespace, settings: Settings) -> list[str]:
    from timebill_ros.runtime.loading import model_folder

    path: Path = options.json or Path(model_folder(settings)).expanduser() / QUALITY_FILE
    known = read_quality(path) if path.is_file() else QualityFile()
    options.alphas_selected = [0.0]
    if "eviction" not in options.levers:
        options.alphas = [0.0]
    if "selection" not in options.levers:
        options.shares = [1.0]
    _, cases, _ = answered(cases_of(options), settings, options)
    # The curves of other methods stay.
    eviction, selection = dict(known.eviction), dict(known.selection)
    lines = [f"{len(cases)} cases, written to {path}"]
    if "eviction" in options.levers:
        name = settings.eviction_method
        eviction[name] = eviction_curve(cases, options.alphas)
        lines += ["", *table(eviction[name], f"eviction by {name}")]
    if "selection" in options.levers:
        name = options.select_by
        selection[name] = selection_curve(cases, options.shares)
        lines += ["", *table(selection[name], f"selection by {name}")]
    write_quality(path, QualityFile(eviction, selection))
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "measure-quality", __doc__, epilog="Run again, it goes on where it stopped."
    )
    add_workload(parser)
    parser.add_argument(
        *("--levers",),
        nargs="+",
        default=["eviction", "selection"],
        choices=["eviction", "selection"],
        help="which to measure",
    )
    parser.add_argument(
        "--json", type=Path, help=f"file to write (default: {QUALITY_FILE} beside the model)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
