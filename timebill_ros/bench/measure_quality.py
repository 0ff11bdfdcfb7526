# SPDX-License-Identifier: Apache-2.0
"""Measure what eviction and selection cost a model, for the planner 'expected'."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from timebill_ros.bench.answers import Answer, AnsweredCase, Levers, RunFile, cut_text
from timebill_ros.bench.cases import BenchError, Case
from timebill_ros.bench.run import PARAMETERS, add_workload, answered, has_references, opened
from timebill_ros.budget.errors import ProfileFitError, QualityFileError, SettingError
from timebill_ros.budget.quality import (
    MEASURES,
    QUALITY_FILE,
    CutPoint,
    CutWorth,
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

_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of an answer, that are left


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


def cut_worth(cases: Sequence[AnsweredCase], asked: Mapping[str, Case]) -> CutWorth:
    """A(f): what can stand for itself of the whole prompts' answers, cut by characters.

    Raises:
        BenchError: no answer scores anything.
    """
    whole = np.array([case.whole.score for case in cases])
    if whole.mean() <= 0.0:
        raise BenchError("no answer scores anything: what a part of one is worth cannot be told")
    points = []
    for fraction in _FRACTIONS:
        left = [cut_text(case.whole.text, fraction) for case in cases]
        scores = np.array(
            [asked[case.case].score(text) for case, text in zip(cases, left, strict=True)]
        )
        worth = min(1.0, float(scores.mean() / whole.mean()))
        rest = scores - worth * whole
        error = rest.std(ddof=1) / math.sqrt(rest.size) / whole.mean() if rest.size > 1 else 0.0
        points.append(CutPoint(fraction, round(worth, 4), round(min(1.0, float(error)), 4)))
    return CutWorth(tuple(points))


def table(curve: QualityCurve, lever: str) -> Iterator[str]:
    """Markdown, a line for each point."""
    yield f"| {lever} drops | score | ran to the cap |"
    yield "|---|---|---|"
    for point in curve.points:
        yield (
            f"| {point.dropped:g} | {point.score:.1f} ± {point.standard_error:.1f} "
            f"| {point.ran_to_cap:.1%} |"
        )


def cut_table(cut: CutWorth) -> Iterator[str]:
    """Markdown, a line for each fraction."""
    yield "| left of an answer | worth |"
    yield "|---|---|"
    for point in cut.points:
        yield f"| {point.fraction:g} | {point.worth:.3f} ± {point.standard_error:.3f} |"


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
    from timebill_ros.runtime.models import model_folder

    path = file or Path(model_folder(settings)).expanduser() / QUALITY_FILE
    return path, read_quality(path) if path.is_file() else QualityFile()


def _measure(options: argparse.Namespace, settings: Settings) -> list[str]:
    path, known = known_curves(settings, options.json)
    measure = options.measure or ("references" if has_references(options) else "agreement")
    if known.measure != measure and (known.eviction or known.selection):
        raise BenchError(
            f"{path} holds curves by {known.measure}, which those by {measure} cannot be compared "
            "with: name another file by --json, or remove it"
        )
    if measure == "agreement":
        return _measure_agreement(options, settings, path, known)
    if options.evict_by:
        raise BenchError("evict_by is of the agreement: references are scored by eviction_method")
    levers = Levers(
        options.shares if "selection" in options.levers else [1.0],
        options.alphas if "eviction" in options.levers else [0.0],
        [0.0],
    )
    run = answered(settings, options, levers)
    cases = run.cases
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
    cut = known.cut
    if "cut" in options.levers:
        cut = cut_worth(cases, run.opened.asked)
        lines += ["", *cut_table(cut)]
    write_quality(path, replace(known, eviction=eviction, selection=selection, cut=cut))
    return lines


def _measure_agreement(
    options: argparse.Namespace, settings: Settings, path: Path, known: QualityFile
) -> list[str]:
    from timebill_ros.bench.agreement import (
        Agreeing,
        MethodAgreement,
        agreed_case,
        agreement_table,
        draw_agreement,
    )
    from timebill_ros.engine.eviction import EVICTION_METHODS

    evicts, selects = (lever in options.levers for lever in ("eviction", "selection"))
    run = opened(settings, options, selects=selects, scored=False)
    evictions = (options.evict_by or list(EVICTION_METHODS)) if evicts else []
    agreeing = Agreeing(run.engine, evictions, run.selectors, settings.max_tokens)
    alphas, shares = sorted({0.0, *options.alphas}), sorted({1.0, *options.shares}, reverse=True)
    _, cases = run.made(
        RunFile(options.out / "agreement.jsonl", agreed_case),
        {"evictions": evictions, "alphas": alphas, "shares": shares},
        lambda _place, case: agreeing.agree(case, alphas, shares),
    )
    made: dict[str, dict[str, MethodAgreement]] = {}
    lines = [f"{len(cases)} cases, agreement with the whole prompt's answer, written to {path}"]
    for lever, names, against in (
        ("eviction", evictions, "snapkv"),
        ("selection", list(run.selectors), "recent"),
    ):
        if names:
            made[lever] = {name: MethodAgreement.of(cases, lever, name) for name in names}
            lines += ["", *agreement_table(made[lever], lever, against)]
    draw_agreement(options.out / "agreement.png", made)
    curves = {
        lever: {name: each.curve() for name, each in methods.items()}
        for lever, methods in made.items()
    }
    quality = QualityFile(
        eviction={**known.eviction, **curves.get("eviction", {})},
        selection={**known.selection, **curves.get("selection", {})},
        measure="agreement",
    )
    write_quality(path, quality)
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "measure-quality", __doc__, epilog="Run again, it goes on where it stopped."
    )
    add_workload(parser)
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        help="references: scores against them; agreement: how far the model still says what it "
        "said with its whole context (default: references where the workload has any)",
    )
    parser.add_argument(
        "--evict-by",
        nargs="+",
        metavar="METHOD",
        help="eviction methods whose agreement is measured, all by default; references are "
        "scored after --eviction-method alone",
    )
    parser.add_argument(
        *("--levers",),
        nargs="+",
        default=["eviction", "selection", "cut"],
        choices=["eviction", "selection", "cut"],
        help="which to measure; cut: what a part of an answer is worth, by references alone",
    )
    parser.add_argument(
        "--json", type=Path, help=f"file to write (default: {QUALITY_FILE} beside the model)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
