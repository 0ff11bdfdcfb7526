# SPDX-License-Identifier: Apache-2.0
"""A folder of answers: what was asked of which model, and going on where it was left."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timebill_ros.bench.answers import (
    AnsweredCase,
    Levers,
    Made,
    RunFile,
    answered_case,
)
from timebill_ros.bench.cases import BenchError, Case, digest, embedded_cases, read_cases
from timebill_ros.bench.longbench import is_longbench, read_longbench
from timebill_ros.bench.predicted import (
    Predictions,
    check_unmet,
    digest_of,
    known_prompts,
    predictor_digest,
    tell,
    told_before,
    told_case,
)
from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.expected import ALPHAS, SHARES
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.cli.arguments import add_parameters, positive_count
from timebill_ros.runtime.settings import Settings
from timebill_ros.selection.methods import SELECTION_METHODS
from timebill_ros.training.progress import track

if TYPE_CHECKING:  # they load torch: not before the arguments are known to be good
    from timebill_ros.engine.transformer_engine import TransformerEngine
    from timebill_ros.runtime.loading import Loaded
    from timebill_ros.selection.selector import Selector

_LOG = logging.getLogger(__name__)

# Those of the node's parameters that an answer or its time depends on.
PARAMETERS = (
    *("model", "device", "dtype", "weights", "threads", "max_context", "chunk", "window"),
    *("eviction_method", "kernel", "selection_head", "max_tokens", "stop"),
    *("predictor", "predictor_device", "predictor_threads", "profile_cache", "profile_seconds"),
)
_EMBEDDED_LENGTH = (512, 8192)  # tokens
_TIMED_EVERY = 8  # cases


@dataclass(frozen=True)
class AnsweredRun:
    """A model's answers to a workload.

    Attributes:
        header: model, machine, versions, and how long things took when the run was begun.
        cases: the answers.
        opened: the model, and what it was asked.
        out: folder of the run.
    """

    header: dict[str, Any]
    cases: Sequence[AnsweredCase]
    opened: Opened
    out: Path

    @property
    def time_model(self) -> TimeModel:
        """As profiled when the run was begun."""
        coefficients = dict(self.header["measured"]["time_model"])
        predictor = coefficients.pop("predictor")
        given = None if predictor is None else Quadratic(**predictor)
        return TimeModel(**coefficients, predictor=given)

    @property
    def calibration(self) -> Calibration | None:
        """Of the length predictor, if it has one."""
        return self.opened.loaded.calibration

    def predicted(self, model: TimeModel) -> Predictions:
        """The predicted length of every answered case.

        What the model's own states tell takes a prefill of every prompt, once: it is kept.

        Raises:
            OtherRun: what is kept is of another run.
        """
        run, loaded = self.opened, self.opened.loaded
        if loaded.states is not None:
            shares, predictor = self.header["levers"]["shares"], predictor_digest(loaded)
            _, told = run.made(
                RunFile(self.out / f"lengths_{predictor}.jsonl", told_case),
                {"predictor": predictor, "shares": shares},
                lambda _, case: tell(loaded, run.engine, run.selectors, case, shares),
            )
            return Predictions(by_state=told)
        done = {case.case for case in self.cases}
        asked = [case for case in run.workload if case.id in done]
        return Predictions(told_before(loaded, run.engine, asked, model))


def _cases(options: argparse.Namespace, *, scored: bool) -> tuple[list[Case], str]:
    """The prompts that the options name, of a file all that it has; what tells them from others.

    That is the same for more jobs, or seeds: the same folder can be gone on with for them.

    Raises:
        BadWorkload: its file cannot be scored.
    """
    if options.workload == "embedded":
        shortest, longest = options.prompt_tokens or _EMBEDDED_LENGTH
        first = embedded_cases(1, [0], (shortest, longest))
        return embedded_cases(options.jobs, options.seeds, (shortest, longest)), digest(first)
    path = Path(options.workload)
    cases = read_longbench(path) if is_longbench(path) else read_cases(path, scored=scored)
    return cases, f"{digest(cases)} {options.cut_middle or ''}".strip()


def has_references(options: argparse.Namespace) -> bool:
    """Whether there is anything to score the workload's answers against.

    Raises:
        BadWorkload: its file cannot be read.
    """
    path = Path(options.workload)
    if options.workload == "embedded" or is_longbench(path):
        return True
    return any(case.metric for case in read_cases(path, scored=False))


def _drawn(
    cases: Sequence[Case],
    engine: TransformerEngine,
    met: frozenset[str],
    options: argparse.Namespace,
) -> list[Case]:
    """As many as are wanted of a file's, drawn by chance of those that are as long as wanted."""
    if options.workload == "embedded":
        return list(cases)
    order = np.random.default_rng(0).permutation(len(cases))
    mixed = (_cut(cases[place], engine, options.cut_middle) for place in order)
    if met:
        mixed = (case for case in mixed if digest_of(engine, case) not in met)
    if options.prompt_tokens is None:
        return list(islice(mixed, options.jobs))
    shortest, longest = options.prompt_tokens
    fitting = (
        case
        for case in mixed
        if shortest <= engine.prepare(case.conversation).prompt_tokens <= longest
    )
    drawn = list(islice(fitting, options.jobs))
    if not drawn:
        raise BenchError(
            f"no prompt of {options.workload} has {shortest} to {longest} tokens (--prompt-tokens)"
        )
    return drawn


def _cut(case: Case, engine: TransformerEngine, most: int | None) -> Case:
    if most is None:
        return case
    return replace(case, prompt=engine.without_middle(case.prompt, most))


@dataclass(frozen=True)
class Opened:
    """A loaded model and what it is asked.

    Attributes:
        loaded: the model.
        engine: that of it, which runs in this process.
        workload: the prompts.
        selectors: shorten prompts, by their method's name.
        header: what tells a run of it from others.
    """

    loaded: Loaded
    engine: TransformerEngine
    workload: Sequence[Case]
    selectors: Mapping[str, Selector]
    header: dict[str, Any]

    @property
    def asked(self) -> dict[str, Case]:
        """The workload by id."""
        return {case.id: case for case in self.workload}

    def made(
        self, file: RunFile[Made], header: Mapping[str, Any], make: Callable[[int, Case], Made]
    ) -> tuple[dict[str, Any], list[Made]]:
        """What is made of every case, as far as it is not in the file yet; and the file's header.

        ``make`` is given a case's place too. A case that the model cannot be asked is left out.

        Raises:
            OtherRun: the file holds another run.
            BenchError: no case can be asked.
        """
        from timebill_ros.engine.errors import RequestError

        found, done = file.open({**self.header, **header})
        known = {each.case: each for each in done}
        for place, case in enumerate(track(self.workload, "answering")):
            if case.id in known:
                continue
            try:
                known[case.id] = make(place, case)
            except RequestError as refused:
                _LOG.warning("%s is left out: %s", case.id, refused)
                continue
            file.add(known[case.id])
        cases = [known[case.id] for case in self.workload if case.id in known]
        if not cases:
            raise BenchError("no prompt of the workload can be answered by this model")
        return dict(found), cases


def opened(
    settings: Settings, options: argparse.Namespace, *, selects: bool, scored: bool = True
) -> Opened:
    """Load the model and draw what it is asked; without ``scored`` prompts without references too.

    Raises:
        BadWorkload: the workload cannot be read, or not be scored.
        BenchError: the model runs elsewhere, or no prompt is as long as wanted.
    """
    from timebill_ros.engine.profile_cache import describe_environment
    from timebill_ros.engine.transformer_engine import TransformerEngine
    from timebill_ros.runtime.loading import load
    from timebill_ros.selection.methods import make_selection_method
    from timebill_ros.selection.selector import Selector

    known, told_apart = _cases(options, scored=scored)
    loaded = load(settings, lambda share, doing: _LOG.info("[%3.0f%%] %s", share * 100.0, doing))
    engine = loaded.engine
    if not isinstance(engine, TransformerEngine):
        raise BenchError(
            f"{settings.model} does not run in this process: it cannot be evicted from"
        )
    met = known_prompts(loaded) if options.leave_out_met else frozenset()
    workload = _drawn(known, engine, met, options)
    selectors = {
        method: Selector(make_selection_method(method), settings.window, settings.selection_head)
        for method in (options.select_by if selects else ())
    }
    header = {
        "environment": dict(describe_environment(engine)),
        "workload": told_apart,
        "max_tokens": settings.max_tokens,
        "selection": {method: repr(selector) for method, selector in selectors.items()},
    }
    return Opened(loaded, engine, workload, selectors, header)


def answered(
    settings: Settings,
    options: argparse.Namespace,
    levers: Levers,
    name: str = "answers.jsonl",
    *,
    predicts: bool = False,
) -> AnsweredRun:
    """Load the model and have it answer what is not answered yet, into the file ``name``.

    With ``predicts``, nothing that the length predictor has met.

    Raises:
        BadWorkload: the workload cannot be scored.
        OtherRun: the file holds another run.
        BenchError: no case can be answered, or the predictor has met some.
    """
    from timebill_ros.bench.answers import Answering

    run = opened(settings, options, selects=levers.selects)
    if predicts:
        check_unmet(run.loaded, run.engine, run.workload, options.out)
    answering = Answering(run.engine, run.selectors, settings.max_tokens)
    measured = {"time_model": asdict(run.loaded.fit.model)}
    found, cases = run.made(
        RunFile(options.out / name, answered_case),
        {"levers": asdict(levers), "measured": measured},
        lambda place, case: answering.answer(case, levers, timed=place % _TIMED_EVERY == 0),
    )
    return AnsweredRun(found, cases, run, options.out)


def add_workload(parser: argparse.ArgumentParser) -> None:
    """The options that say what is answered, and after which levers."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; gone on with")
    parser.add_argument(
        "--workload",
        default="embedded",
        help="embedded, JSON lines of prompt and reference, or a folder laid out as LongBench's",
    )
    parser.add_argument(
        "--jobs", type=positive_count, default=120, help="of each seed, or of a file"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the embedded workload"
    )
    parser.add_argument(
        *("--prompt-tokens",),
        type=positive_count,
        nargs=2,
        help="shortest and longest prompt, of the embedded workload 512 and 8192 by default; those "
        "of a file are chosen by it",
    )
    parser.add_argument(
        "--cut-middle",
        type=positive_count,
        metavar="TOKENS",
        help="leave out the middle of a file's longer prompts, as LongBench does",
    )
    parser.add_argument(
        "--leave-out-met",
        action="store_true",
        help="of a file's prompts, those that the length predictor was trained or calibrated on",
    )
    parser.add_argument(
        "--select-by",
        nargs="+",
        default=["lexical"],
        choices=list(SELECTION_METHODS),
        help="selection methods, each of which shortens every prompt",
    )
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
