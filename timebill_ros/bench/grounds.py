# SPDX-License-Identifier: Apache-2.0
"""What methods are judged on: answers, times and curves of the models that a comparison names."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from timebill_ros.bench.answers import AnsweredCase, Levers
from timebill_ros.bench.cases import BenchError, Case
from timebill_ros.bench.measure_quality import (
    cut_worth,
    eviction_curve,
    known_curves,
    selection_curve,
)
from timebill_ros.bench.methods import HALVES, ROUNDED
from timebill_ros.bench.run import AnsweredRun, answered
from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.quality import LeverQuality, read_quality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.replay.recording import BadInput
from timebill_ros.replay.simulated import load_time_model
from timebill_ros.replay.trace import Budget, read_trace
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.settings import Settings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ground:
    """What all methods are judged on.

    Attributes:
        settings: the node's, which each method changes in part.
        time_model: what each stage takes.
        quality: what the levers cost, as the planner knows it.
        calibration: of the length predictor, if it has one.
        cases: the answers; after selection by one method.
        lengths: as predicted before prefill, by case; empty without such a predictor.
        smaller: the same for a smaller model, whose prompts have the same tokens.
        asked: by id, what the cases are answers to; needed where the deadline cuts answers, for the
            rest is scored.
        arrivals: ns from the first to each case, in order; empty where each comes when the deadline
            of the one before it passes. Shorter than the cases, they are gone through again.
        by_state: as the state at the end of prefill tells lengths, by case and share of its prompt.
    """

    settings: Settings
    time_model: TimeModel
    quality: LeverQuality | None
    calibration: Calibration | None
    cases: Sequence[AnsweredCase]
    lengths: Mapping[str, LengthDistribution] = field(default_factory=dict)
    smaller: Ground | None = None
    asked: Mapping[str, Case] = field(default_factory=dict)
    arrivals: Sequence[int] = ()
    by_state: Mapping[str, Mapping[float, LengthDistribution]] = field(default_factory=dict)

    def releases(self, budget: float) -> list[int]:
        """When each case comes, ns."""
        count, period = len(self.cases), round(budget * NS_PER_S)
        if not self.arrivals:
            return [i * period for i in range(count)]
        # From the last of a round to the first of the next as long as in the mean of a round.
        gap = self.arrivals[-1] // max(1, len(self.arrivals) - 1)
        rounds = self.arrivals[-1] + gap
        return [
            i // len(self.arrivals) * rounds + self.arrivals[i % len(self.arrivals)]
            for i in range(count)
        ]


def grounds_of(
    answers: AnsweredRun,
    options: argparse.Namespace,
    settings: Settings,
    arrivals: Sequence[int] = (),
) -> dict[str, list[Ground]]:
    """What methods are judged on, by selection method.

    With ``--quality halves`` there are two parts, each with the curves of the other.
    """
    model = load_time_model(options.time_model) if options.time_model else answers.time_model
    asked, calibration = answers.opened.asked, answers.calibration
    predicted = answers.predicted(model)
    grounds: dict[str, list[Ground]] = {}
    for selection in options.select_by:
        cases = [case.selected_by(selection) for case in answers.cases]
        if options.quality == HALVES:
            halves = cases[::2], cases[1::2]
            parts = [
                (half, _measured(other, asked, options))
                for half, other in (halves, halves[::-1])
                if half
            ]
        else:
            curves = read_quality(Path(options.quality)) if options.quality else None
            known = curves or known_curves(settings)[1]
            parts = [(cases, known.of(settings.eviction_method, selection))]
        if parts[0][1].selection is None:
            _LOG.warning("no quality curve of selection by %r: prompts stay whole", selection)
        grounds[selection] = [
            Ground(
                *(settings, model, quality, calibration, part, predicted.whole),
                asked=asked,
                arrivals=arrivals,
                by_state=predicted.after(selection),
            )
            for part, quality in parts
        ]
    return grounds


def _measured(
    cases: Sequence[AnsweredCase], asked: Mapping[str, Case], options: argparse.Namespace
) -> LeverQuality:
    """What the levers cost these cases."""
    if not cases:
        raise BenchError(f"--quality {HALVES}: there are too few answers to cut in halves")
    curve = selection_curve(cases, options.shares)
    cuts = OverrunPolicy.ANYTIME.value in options.policies
    cut = cut_worth(cases, asked) if cuts else None
    return LeverQuality(eviction_curve(cases, options.alphas), curve, measured=True, cut=cut)


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
    asked = twin.opened.asked
    return Ground(settings, model, None, None, twin.cases, asked=asked, arrivals=arrivals)


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
    curves, calibration = known_curves(settings)[1], own.calibration
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
