# SPDX-License-Identifier: Apache-2.0
"""Compare ways to plan under deadlines: one workload, one model, every method and budget."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timebill_ros.bench.answers import AnsweredCase, AnswerFile, missing
from timebill_ros.bench.cases import BenchError, Case, digest, embedded_cases, read_cases
from timebill_ros.bench.methods import METHODS
from timebill_ros.budget.errors import ProfileFitError, SettingError
from timebill_ros.budget.expected import ALPHAS, SHARES
from timebill_ros.budget.quality import QUALITY_FILE, read_quality
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.cli.arguments import (
    add_parameters,
    positive_count,
    positive_seconds,
    take_settings,
)
from timebill_ros.node.command_line import command_parser
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.harmless import harmless_line, log_to_stderr
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.progress import hide_library_bars, track

if TYPE_CHECKING:  # they load torch: not before the arguments are known to be good
    from timebill_ros.bench.outcomes import Ground, Row
    from timebill_ros.runtime.loading import Loaded

_LOG = logging.getLogger(__name__)

# Those of the node's parameters that an answer or its time depends on.
PARAMETERS = (
    *("model", "device", "dtype", "threads", "max_context", "chunk", "window"),
    *("eviction_method", "kernel", "selection_head", "max_tokens", "stop"),
    *("predictor", "predictor_device", "predictor_threads", "profile_cache", "profile_seconds"),
)
_QUANTILES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer what is not answered yet, compare, write tables and pictures; 0 if that worked."""
    parser = _parser()
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


def cases_of(options: argparse.Namespace) -> list[Case]:
    """The workload that the options name.

    Raises:
        BadWorkload: its file cannot be scored.
    """
    if options.workload == "embedded":
        return embedded_cases(options.jobs, options.seeds, tuple(options.prompt_tokens))
    return read_cases(Path(options.workload))[: options.jobs]


def answered(
    cases: Sequence[Case], settings: Settings, options: argparse.Namespace
) -> tuple[dict[str, Any], list[AnsweredCase], Loaded]:
    """The run's header and the answers to every case, made or found; the loaded model.

    Raises:
        BenchError: the folder holds another run, or no case can be answered.
    """
    from timebill_ros.bench.answers import Answering, Levers
    from timebill_ros.engine.errors import RequestError
    from timebill_ros.engine.profile_cache import describe_environment
    from timebill_ros.engine.transformer_engine import TransformerEngine
    from timebill_ros.runtime.loading import load
    from timebill_ros.selection.methods import make_selection_method
    from timebill_ros.selection.selector import Selector

    method = make_selection_method(options.select_by)
    loaded = load(settings, lambda share, doing: _LOG.info("[%3.0f%%] %s", share * 100.0, doing))
    engine, model = loaded.engine, loaded.fit.model
    if not isinstance(engine, TransformerEngine):
        raise BenchError(
            f"{settings.model} does not run in this process: it cannot be evicted from"
        )
    levers = Levers(options.shares, options.alphas, options.alphas_selected)
    header = {
        "environment": dict(describe_environment(engine)),
        "workload": digest(cases),
        "max_tokens": settings.max_tokens,
        "selection": f"{method!r}, head {settings.selection_head}",
        "levers": asdict(levers),
        "measured": {"time_model": asdict(model)},
    }
    file = AnswerFile(options.out / "answers.jsonl")
    found, done = file.open(header)
    selector = Selector(method, settings.window, settings.selection_head)
    answering = Answering(
        engine, selector, loaded.predictor, model.longest_predictor_input, settings.max_tokens
    )
    by_id = {case.id: case for case in cases}
    for name in track(missing(by_id, done), "answering"):
        try:
            answer = answering.answer(by_id[name], levers)
        except RequestError as refused:
            _LOG.warning("%s is left out: %s", name, refused)
            continue
        file.add(answer)
        done.append(answer)
    if not done:
        raise BenchError("no prompt of the workload can be answered by this model")
    order = {name: place for place, name in enumerate(by_id)}
    return dict(found), sorted(done, key=lambda case: order[case.case]), loaded


def _compare(options: argparse.Namespace, settings: Settings) -> str:
    from timebill_ros.bench.outcomes import Ground
    from timebill_ros.bench.report import (
        draw_budgets,
        draw_pessimism,
        tables,
        write_means,
        write_rows,
    )
    from timebill_ros.replay.simulated import load_time_model

    header, done, loaded = answered(cases_of(options), settings, options)
    if options.time_model is not None:
        model = load_time_model(options.time_model)
    else:
        model = _time_model(header["measured"]["time_model"])
    quality = loaded.quality
    if options.quality is not None:
        quality = read_quality(options.quality).of(settings.eviction_method, options.select_by)
    ground = Ground(settings, model, quality, loaded.calibration, done)
    budgets = _budgets(ground, options)
    rows = list(_rows(ground, list(budgets), options))
    write_rows(options.out / "rows.csv", rows)
    write_means(options.out / "means.csv", rows)
    draw_budgets(options.out / "budgets.png", rows)
    if any(name.startswith("timebill-k") for name in options.methods):
        draw_pessimism(options.out / "pessimism.png", rows)
    text = "\n".join([*_head(header, ground), "", *tables(rows, budgets)])
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    return text


def _time_model(coefficients: dict[str, Any]) -> TimeModel:
    predictor = coefficients["predictor"]
    given = None if predictor is None else Quadratic(**predictor)
    return TimeModel(**{**coefficients, "predictor": given})


def _budgets(ground: Ground, options: argparse.Namespace) -> dict[float, str]:
    """The budgets, s, with what the tables call them."""
    from timebill_ros.bench.outcomes import whole_time

    if options.budgets:
        budgets = {budget: f"{budget:g} s" for budget in sorted(options.budgets)}
    else:
        times = [whole_time(ground.time_model, case) for case in ground.cases]
        budgets = {
            float(np.quantile(times, share)): f"{share:g}: {np.quantile(times, share):.3g} s"
            for share in options.quantiles
        }
    shortest = min(
        ground.time_model.prefill(answer.prompt_tokens)
        for case in ground.cases
        for answer in case.answers
    )
    if min(budgets) < shortest:
        raise BenchError(
            f"a budget of {min(budgets):.4g} s is below every prefill, the shortest of which "
            f"takes {shortest:.4g} s: nothing could be answered"
        )
    return budgets


def _rows(ground: Ground, budgets: Sequence[float], options: argparse.Namespace) -> Iterator[Row]:
    from timebill_ros.bench.outcomes import run

    for name in track(options.methods, "comparing"):
        for policy in options.policies:
            for budget in budgets:
                yield from run(ground, name, METHODS[name], budget, policy)


def _head(header: dict[str, Any], ground: Ground) -> Iterator[str]:
    """Machine, versions and how well the time model describes what was measured."""
    environment = header["environment"]
    yield (
        f"{len(ground.cases)} cases, model {ground.settings.model} "
        f"({environment['checkpoint'][:8]}, {environment['dtype']}), {environment['device']}, "
        f"{environment['threads']} threads, torch {environment['torch']}, "
        f"transformers {environment['transformers']}, timebill_ros {environment['timebill_ros']}"
    )
    model, cases = ground.time_model, ground.cases
    prefills = [(c.whole.prefill, model.prefill(c.whole.prompt_tokens)) for c in cases]
    decodes = [
        (c.whole.decode, model.decode(c.whole.prompt_tokens, c.whole.response_tokens))
        for c in cases
        if c.whole.response_tokens > 1
    ]
    for name, pairs in (("prefill", prefills), ("decoding", decodes)):
        ratios = [measured / told for measured, told in pairs if told > 0.0]
        if ratios:
            low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
            yield (
                f"{name} as measured beside the answers, over the time model's: median "
                f"{middle:.2f}, {low:.2f} to {high:.2f} for nine of ten"
            )


def add_workload(parser: argparse.ArgumentParser) -> None:
    """The options that say what is answered, and after which levers."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; gone on with")
    parser.add_argument(
        "--workload", default="embedded", help="embedded, or JSON lines of prompt and reference"
    )
    parser.add_argument("--jobs", type=positive_count, default=120, help="of each seed")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the embedded workload"
    )
    parser.add_argument(
        *("--prompt-tokens",),
        type=positive_count,
        nargs=2,
        default=[512, 8192],
        help="shortest and longest prompt of the embedded workload",
    )
    parser.add_argument("--select-by", default="lexical", help="selection method")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS))
    parser.add_argument(
        *("--alphas-selected",),
        type=float,
        nargs="+",
        default=list(ALPHAS),
        help="eviction ratios after a selection; a plan between them has the higher one's answer",
    )
    add_parameters(parser, PARAMETERS)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("bench", __doc__, epilog="Run again, it goes on where it stopped.")
    add_workload(parser)
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD"
    )
    parser.add_argument(
        "--policies", nargs="+", default=["kill", "skip_next"], choices=["kill", "skip_next"]
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
        "--time-model",
        type=Path,
        metavar="FILE",
        help="time model of another machine or a quieter moment, see profile --save",
    )
    parser.add_argument(
        "--quality",
        type=Path,
        help=f"curves for the planner, instead of the model's {QUALITY_FILE}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
