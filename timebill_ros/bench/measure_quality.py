# SPDX-License-Identifier: Apache-2.0
"""Measure what eviction and selection cost a model, for the planner 'expected'."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from timebill_ros.bench.answers import Answer, AnsweredCase, Levers
from timebill_ros.bench.cases import BenchError
from timebill_ros.bench.run import PARAMETERS, add_workload, answered
from timebill_ros.budget.errors import ProfileFitError, QualityFileError, SettingError
from timebill_ros.budget.quality import (
    QUALITY_FILE,
    QualityCurve,
    QualityFile,
    QualityPoint,
    read_quality,
    write_quality,
)
from timebill_ros.cli.arguments import take_settings
from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.progress import hide_library_bars


def eviction_curve(cases: Sequence[AnsweredCase], alphas: Sequence[float]) -> QualityCurve:
    """Q(alpha) with the whole prompt prefilled; of ratios that the window allowed."""
    points = []
    for alpha in sorted(alphas):
        answers = [
            case.after(1.0, math.floor((1.0 - alpha) * case.whole.prompt_tokens + 1e-6))
            for case in cases
        ]
        points.append(_point(alpha, answers))
    return QualityCurve(tuple(points))


def selection_curve(cases: Sequence[AnsweredCase], shares: Sequence[float]) -> QualityCurve:
    """Q(rho) without eviction, over 1 - rho."""
    points = []
    for share in sorted(shares, reverse=True):
        answers = [max(case.of_share(share), key=_kept) for case in cases]
        points.append(_point(round(1.0 - share, 6), answers))
    return QualityCurve(tuple(points))


def table(curve: QualityCurve, lever: str) -> Iterator[str]:
    """Markdown, a line for each point."""
    yield f"| {lever} drops | score | ran to the cap |"
    yield "|---|---|---|"
    for point in curve.points:
        yield (
            f"| {point.dropped:g} | {point.score:.1f} ± {point.standard_error:.1f} "
            f"| {point.ran_to_cap:.1%} |"
        )


def _point(dropped: float, answers: Sequence[Answer]) -> QualityPoint:
    scores = np.array([answer.score for answer in answers])
    error = scores.std(ddof=1) / math.sqrt(scores.size) if scores.size > 1 else 0.0
    ran = np.mean([not answer.ended for answer in answers])
    return QualityPoint(
        dropped,
        score=round(float(scores.mean()), 3),
        standard_error=round(float(error), 3),
        ran_to_cap=round(float(ran), 4),
    )


def _kept(answer: Answer) -> int:
    return answer.kept_tokens


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the workload after every lever and write the curves; 0 if that worked."""
    parser = _parser()
    options = parser.parse_args(arguments)
    settings = take_settings(parser, vars(options), PARAMETERS)
    log_to_stderr()
    hide_library_bars()
    from timebill_ros.engine.errors import EngineError
    from timebill_ros.predictor.errors import PredictorError

    try:
        print("\n".join(_measure(options, settings)))
    except (
        *(BenchError, SettingError, ProfileFitError, QualityFileError),
        *(EngineError, PredictorError, OSError),
    ) as bad:
        print(f"measure-quality: {harmless_line(str(bad))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def known_curves(settings: Settings, file: Path | None = None) -> tuple[Path, QualityFile]:
    """Where the model's curves are, or ``file`` in its place, and what is there.

    Raises:
        QualityFileError: the file holds no curves.
    """
    from timebill_ros.runtime.loading import model_folder

    path = file or Path(model_folder(settings)).expanduser() / QUALITY_FILE
    return path, read_quality(path) if path.is_file() else QualityFile()


def _measure(options: argparse.Namespace, settings: Settings) -> list[str]:
    path, known = known_curves(settings, options.json)
    levers = Levers(
        options.shares if "selection" in options.levers else [1.0],
        options.alphas if "eviction" in options.levers else [0.0],
        [0.0],
    )
    cases = answered(settings, options, levers).cases
    # The curves of other methods stay.
    eviction, selection = dict(known.eviction), dict(known.selection)
    lines = [f"{len(cases)} cases, written to {path}"]
    if "eviction" in options.levers:
        name = settings.eviction_method
        eviction[name] = eviction_curve(cases, options.alphas)
        lines += ["", *table(eviction[name], f"eviction by {name}")]
    if "selection" in options.levers:
        for name in options.select_by:
            of_method = [case.selected_by(name) for case in cases]
            selection[name] = selection_curve(of_method, options.shares)
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
