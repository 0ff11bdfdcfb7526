# SPDX-License-Identifier: Apache-2.0
"""What methods are judged on: answers, times and curves of the models that a comparison names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from timebill_ros.bench.answers import AnsweredCase, Levers
from timebill_ros.bench.cases import BenchError
from timebill_ros.bench.measure_quality import eviction_curve, known_curves, selection_curve
from timebill_ros.bench.methods import HALVES, ROUNDED
from timebill_ros.bench.outcomes import Ground
from timebill_ros.bench.run import AnsweredRun, answered
from timebill_ros.budget.quality import LeverQuality, read_quality
from timebill_ros.replay.recording import BadInput
from timebill_ros.replay.simulated import load_time_model
from timebill_ros.replay.trace import Budget, read_trace
from timebill_ros.runtime.settings import Settings

_LOG = logging.getLogger(__name__)


def grounds_of(
    answers: AnsweredRun,
    options: argparse.Namespace,
    settings: Settings,
    arrivals: Sequence[int] = (),
) -> dict[str, list[Ground]]:
    """What methods are judged on, by selection method; in halves, each with the other's curves."""
    model = load_time_model(options.time_model) if options.time_model else answers.time_model
    lengths, calibration = answers.predicted(model), answers.loaded.calibration
    grounds: dict[str, list[Ground]] = {}
    for selection in options.select_by:
        cases = [case.selected_by(selection) for case in answers.cases]
        if options.quality == HALVES:
            halves = cases[::2], cases[1::2]
            parts = [
                (half, _measured(other, options)) for half, other in (halves, halves[::-1]) if half
            ]
        else:
            curves = read_quality(Path(options.quality)) if options.quality else None
            known = curves or known_curves(settings)[1]
            parts = [(cases, known.of(settings.eviction_method, selection))]
        if parts[0][1].selection is None:
            _LOG.warning("no quality curve of selection by %r: prompts stay whole", selection)
        grounds[selection] = [
            Ground(settings, model, quality, calibration, part, lengths, arrivals=arrivals)
            for part, quality in parts
        ]
    return grounds


def _measured(cases: Sequence[AnsweredCase], options: argparse.Namespace) -> LeverQuality:
    """What the levers cost these cases."""
    if not cases:
        raise BenchError(f"--quality {HALVES}: there are too few answers to cut in halves")
    curve = selection_curve(cases, options.shares)
    return LeverQuality(eviction_curve(cases, options.alphas), curve, measured=True)


def arrivals_of(trace: Path | None) -> list[int]:
    """ns from a trace's first request to each; none without a trace.

    Raises:
        BenchError: the trace cannot be read.
    """
    if trace is None:
        return []
    try:
        instants = [item.at_ns for item in read_trace(trace, Budget(1.0, 0.0), filled=False)]
    except (BadInput, OSError) as error:
        raise BenchError(str(error)) from error
    return [instant - instants[0] for instant in instants]


def quantised_ground(
    options: argparse.Namespace, settings: Settings, arrivals: Sequence[int] = ()
) -> Ground:
    """The model with rounded weights: answers and times of their own, of whole prompts alone."""
    if options.quantised in ROUNDED:
        settings = replace(settings, weights=options.quantised)
    else:
        settings = replace(settings, model=options.quantised)
    levers = Levers((1.0,), (0.0,), ())
    twin = answered(settings, options, levers, "answers_quantised.jsonl")
    file = options.quantised_time_model
    model = load_time_model(file) if file else twin.time_model
    return Ground(settings, model, None, None, twin.cases, arrivals=arrivals)


def add_smaller(
    grounds: dict[str, list[Ground]],
    options: argparse.Namespace,
    settings: Settings,
    levers: Levers,
) -> None:
    """Give the grounds of every selection method a smaller model, with answers of its own.

    Raises:
        BenchError: it splits prompts into other tokens.
    """
    settings = replace(settings, model=options.smaller)
    own = answered(settings, options, levers, "answers_smaller.jsonl")
    file = options.smaller_time_model
    model = load_time_model(file) if file else own.time_model
    curves, calibration = known_curves(settings)[1], own.loaded.calibration
    for selection in options.select_by:
        quality = curves.of(settings.eviction_method, selection)
        cases = {case.case: case.selected_by(selection) for case in own.cases}
        for place, larger in enumerate(grounds[selection]):
            same = [cases[each.case] for each in larger.cases if each.case in cases]
            tokens = [[case.whole.prompt_tokens for case in all_] for all_ in (same, larger.cases)]
            if tokens[0] != tokens[1]:
                raise BenchError(f"--smaller: {options.smaller} splits prompts into other tokens")
            smaller = Ground(settings, model, quality, calibration, same, larger.lengths)
            grounds[selection][place] = replace(larger, smaller=smaller)
