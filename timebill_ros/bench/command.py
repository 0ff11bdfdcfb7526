# SPDX-License-Identifier: Apache-2.0
"""Compare ways to plan under deadlines: one workload, one model, every method and budget."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timebill_ros.bench.answers import Levers
from timebill_ros.bench.cases import BenchError
from timebill_ros.bench.methods import (
    HALVES,
    METHODS,
    PESSIMISMS,
    ROUNDED,
    applicable,
    selecting,
)
from timebill_ros.bench.run import PARAMETERS, AnsweredRun, add_workload, answered
from timebill_ros.budget.errors import ProfileFitError, QualityFileError, SettingError
from timebill_ros.budget.quality import QUALITY_FILE
from timebill_ros.cli.arguments import positive_seconds, take_settings
from timebill_ros.node.command_line import command_parser
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.progress import hide_library_bars, track

if TYPE_CHECKING:  # they load torch: not before the arguments are known to be good
    from timebill_ros.bench.grounds import Ground
    from timebill_ros.bench.outcomes import Row

_LOG = logging.getLogger(__name__)

_QUANTISED = "quantised"
_CASCADE = "cascade"
_FIXED = (0.25, 0.5, 0.75, 0.95)
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Fig. 7 and 8; alpha_max is 0.95 by default. LongBench cuts prompts in the middle.
    "paper": {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "device": "cuda",
        "workload": "LongBench",
        "cut_middle": 31_500,
        "max_context": 32_512,
        "max_tokens": 512,
        "budgets": [5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
        "shares": [1.0],
        "alphas": [0.0, *_FIXED],
        "methods": [
            *("vanilla", *(f"fixed-{alpha:g}" for alpha in _FIXED)),
            *(*PESSIMISMS.values(), "expected-alpha", "hindsight-alpha"),
        ],
    }
}
"""Defaults of the other options."""
_QUANTILES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer what is not answered yet, compare, write tables and pictures; 0 if that worked."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.preset:
        parser.set_defaults(**PRESETS[options.preset])
        options = parser.parse_args(arguments)
    settings = take_settings(parser, vars(options), PARAMETERS)
    log_to_stderr()
    hide_library_bars()
    from timebill_ros.engine.errors import EngineError
    from timebill_ros.predictor.errors import PredictorError

    try:
        for option, ratios in (
            ("--alphas", options.alphas),
            ("--alphas-selected", options.alphas_selected),
        ):
            _check_reach(option, ratios, settings.alpha_max)
        tables = _compare(options, settings)
    except (
        BenchError,
        BadInput,
        SettingError,
        ProfileFitError,
        QualityFileError,
        EngineError,
        PredictorError,
        OSError,
    ) as bad:
        print(f"bench: {harmless_line(str(bad))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(tables)
    return 0


def _check_reach(option: str, ratios: Sequence[float], alpha_max: float) -> None:
    """Refuse ratios that plans may pass: their answers would be those of a larger cache.

    Raises:
        BenchError: names the option and the bound.
    """
    if max(ratios) < alpha_max:
        raise BenchError(
            f"{option}: the largest, {max(ratios):g}, is below alpha_max {alpha_max:g}, up to "
            "which plans evict"
        )


def _compare(options: argparse.Namespace, settings: Settings) -> str:
    from timebill_ros.bench.grounds import add_smaller, arrivals_of, grounds_of, quantised_ground
    from timebill_ros.bench.report import (
        draw_budgets,
        draw_pessimism,
        tables,
        write_means,
        write_rows,
    )

    levers = Levers(options.shares, options.alphas, options.alphas_selected)
    if _QUANTISED in (options.methods or ()) and not options.quantised:
        raise BenchError("the method 'quantised' needs --quantised")
    if _CASCADE in (options.methods or ()) and not options.smaller:
        raise BenchError("the method 'cascade' needs --smaller")
    if options.against.partition("@")[0] not in METHODS:
        raise BenchError(f"--against: there is no method {options.against!r}")
    answers = answered(settings, options, levers, predicts=True)
    arrivals = arrivals_of(options.arrivals)
    grounds = grounds_of(answers, options, settings, arrivals)
    if options.quantised:
        grounds[_QUANTISED] = [quantised_ground(options, settings, arrivals)]
    if options.smaller:
        add_smaller(grounds, options, settings, levers)
    first = next(iter(grounds.values()))
    budgets = _budgets(first, options)
    rows = list(_rows(grounds, list(budgets), options))
    write_rows(options.out / "rows.csv", rows)
    write_means(options.out / "means.csv", rows)
    draw_budgets(options.out / "budgets.png", rows)
    if any(row.method in PESSIMISMS.values() for row in rows):
        draw_pessimism(options.out / "pessimism.png", rows)
    text = "\n".join(
        [*_head(answers, options, first[0]), "", *tables(rows, budgets, options.against)]
    )
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    return text


def _budgets(grounds: Sequence[Ground], options: argparse.Namespace) -> dict[float, str]:
    """The budgets, s, with what the tables call them."""
    from timebill_ros.bench.outcomes import whole_time

    model = grounds[0].time_model
    cases = [case for ground in grounds for case in ground.cases]
    if options.budgets:
        budgets = {budget: f"{budget:g} s" for budget in sorted(options.budgets)}
    else:
        times = [whole_time(model, case) for case in cases]
        budgets = {
            float(np.quantile(times, share)): f"{share:g}: {np.quantile(times, share):.3g} s"
            for share in options.quantiles
        }
    shortest = min(model.prefill(answer.prompt_tokens) for case in cases for answer in case.answers)
    if min(budgets) < shortest:
        raise BenchError(
            f"a budget of {min(budgets):.4g} s is below every prefill, the shortest of which "
            f"takes {shortest:.4g} s: nothing could be answered"
        )
    return budgets


def _rows(
    grounds: Mapping[str, Sequence[Ground]], budgets: Sequence[float], options: argparse.Namespace
) -> Iterator[Row]:
    from timebill_ros.bench.outcomes import run

    for name in track(
        options.methods or applicable(options.quantised, options.smaller), "comparing"
    ):
        method = METHODS[name]
        if method.quantised:
            named = {name: grounds[_QUANTISED]}
        else:
            selections = options.select_by if method.selects else options.select_by[:1]
            named = {
                selecting(name, selection) if place else name: grounds[selection]
                for place, selection in enumerate(selections)
            }
        for row_name, parts in named.items():
            for policy in options.policies:
                for budget in budgets:
                    for part in parts:
                        yield from run(part, row_name, method, budget, policy)


def _head(answers: AnsweredRun, options: argparse.Namespace, ground: Ground) -> Iterator[str]:
    """Machine, versions and how well the time model describes what was measured."""
    environment = answers.header["environment"]
    yield (
        f"{len(answers.cases)} cases, model {ground.settings.model} "
        f"({environment['checkpoint'][:8]}, {environment['dtype']}), {environment['device']}, "
        f"{environment['threads']} threads, torch {environment['torch']}, "
        f"transformers {environment['transformers']}, timebill_ros {environment['timebill_ros']}"
    )
    yield f"selection by {options.select_by[0]}, where a plan names no other method"
    model = ground.time_model
    measured = [(case.measured, case.whole.prompt_tokens) for case in answers.cases]
    taken = [(each, n_x) for each, n_x in measured if each is not None]
    prefills = [(each.prefill, model.prefill(n_x)) for each, n_x in taken]
    decodes = [(each.decode, model.decode(n_x, each.response_tokens)) for each, n_x in taken]
    for name, pairs in (("prefill", prefills), ("decoding", decodes)):
        ratios = [seconds / told for seconds, told in pairs if told > 0.0]
        if ratios:
            low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
            yield (
                f"{name} as measured on {len(ratios)} of them, over the time model's: median "
                f"{middle:.2f}, {low:.2f} to {high:.2f} for nine of ten"
            )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("bench", __doc__, epilog="Run again, it goes on where it stopped.")
    add_workload(parser)
    parser.add_argument(
        "--preset", choices=PRESETS, help="the paper's set-up: needs a GPU, a hub and LongBench"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help="all by default"
    )
    parser.add_argument(
        "--against",
        default="vanilla",
        metavar="METHOD",
        help="method that differences are to; of a later selection method METHOD@NAME",
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        default=["kill", "skip_next"],
        choices=[policy.value for policy in OverrunPolicy],
        help="what a deadline does; with anytime it cuts the answer, and what can stand for itself "
        "of the rest is scored",
    )
    budgets = parser.add_mutually_exclusive_group()
    budgets.add_argument(
        "--quantiles",
        type=float,
        nargs="+",
        default=_QUANTILES,
        help="budgets, as quantiles of the times without any lever",
    )
    budgets.add_argument("--budgets", type=positive_seconds, nargs="+", help="budgets, s")
    parser.add_argument(
        "--arrivals",
        type=Path,
        metavar="TRACE",
        help="trace whose requests' instants the jobs come at, as replay reads it; otherwise each "
        "comes when the deadline of the one before it passes",
    )
    parser.add_argument(
        "--time-model",
        type=Path,
        metavar="FILE",
        help="time model of another machine or a quieter moment, see profile --save",
    )
    parser.add_argument(
        "--quality",
        metavar=f"FILE|{HALVES}",
        help=f"curves for the planner, instead of the model's {QUALITY_FILE}; {HALVES}: for each "
        "half of the cases those of the other half",
    )
    parser.add_argument(
        "--quantised",
        metavar="|".join((*ROUNDED, "MODEL")),
        help="answer with weights rounded so as well, or with another checkpoint, one of AWQ for "
        "example: the method 'quantised'",
    )
    parser.add_argument(
        "--quantised-time-model", type=Path, metavar="FILE", help="of the rounded weights"
    )
    parser.add_argument(
        "--smaller",
        metavar="MODEL",
        help="answer with this smaller model of the same tokens as well: the method 'cascade'",
    )
    parser.add_argument(
        "--smaller-time-model", type=Path, metavar="FILE", help="of the smaller model"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
