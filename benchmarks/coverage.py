# SPDX-License-Identifier: Apache-2.0
"""How often responses stay within the length that was planned for a risk.

First on held-out prompts, split at random into those that calibrate and those that are counted, per
risk and per family. Then in streams of requests that change: another mix of families, and caches
of which most is evicted, which makes some responses run on; with the window of past responses that
the node keeps, and without.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from coverage_picture import RISKS, draw_streams
from machine import heading
from numpy.typing import NDArray

from timebill_ros.budget.calibration import Calibration, fit_calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import read_calibration
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.training.embedded.generation import (
    CHECKPOINT,
    LONGEST_RESPONSE,
    PREDICTOR,
    open_engine,
)
from timebill_ros.training.embedded.lengths import generated, read_pairs, sample_tasks, write_pairs

# Not among the seeds that anything was trained with.
SEEDS = {"usual": 20_000_003, "evicted": 20_000_004}
EVICTED = 0.95  # alpha
LONGEST_PROMPT = 4096
PESSIMISMS = (1.0, 2.0, 5.0)
# Requests of a stream before and after its mix changes.
BEFORE, AFTER = 400, 600


@dataclass(frozen=True)
class Answered:
    """One prompt: what was predicted, how long the response became, and what it was about."""

    lengths: LengthDistribution
    response_tokens: int
    family: str


def main() -> None:
    """Measure both, and print, write and draw what came out."""
    parser = prompts_parser(__doc__)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--streams", type=int, default=40)
    parser.add_argument("--after", nargs="+", default=["plan=1", "list=1", "report=2"])
    parser.add_argument("--out", type=Path, help="directory for coverage.csv and coverage.png")
    arguments = parser.parse_args()
    usual = answered_prompts(arguments, "usual", alpha=0.0)
    evicted = answered_prompts(arguments, "evicted", alpha=EVICTED)
    after = {name: float(share) for name, _, share in (a.partition("=") for a in arguments.after)}
    kept = read_calibration(arguments.predictor)
    print(heading("Coverage"))
    print(f"{len(usual)} prompts; half calibrate, half are counted; {arguments.splits} splits\n")
    print("\n".join(coverage_table(usual, arguments.splits, kept)))
    print(
        f"\n{arguments.streams} streams; after {BEFORE} requests the mix is {after}, and of every "
        f"prompt's cache {EVICTED:.0%} are evicted ({len(evicted)} prompts)\n"
    )
    shifted = [
        covered_streams(usual, evicted, after, arguments.streams, adapt=adapt)
        for adapt in (False, True)
    ]
    print("\n".join(stream_table(*shifted)))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_streams(arguments.out / "coverage.csv", *shifted)
        draw_streams(arguments.out / "coverage.png", *shifted, change=BEFORE)


def prompts_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that ``answered_prompts`` reads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--pairs", type=Path, help="directory that keeps the answers' lengths")
    parser.add_argument("--count", type=int, default=300, help="prompts to answer, twice")
    parser.add_argument("--predictor", type=Path, default=PREDICTOR)
    return parser


def answered_prompts(arguments: argparse.Namespace, name: str, *, alpha: float) -> list[Answered]:
    """Answer prompts of the default mix, or read the answers' lengths, and predict them."""
    path = None if arguments.pairs is None else arguments.pairs / f"{name}.npz"
    if path is not None and path.exists():
        pairs = read_pairs(path)
    else:
        engine = open_engine(CHECKPOINT, threads=1)
        tasks = sample_tasks(SEEDS[name], arguments.count, LONGEST_PROMPT)
        pairs = list(generated(engine, tasks, alpha))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pairs(path, pairs)
    predict = load_predictor(arguments.predictor, threads=1).predict
    return [
        Answered(predict("", pair.prompt_ids, None), pair.response_tokens, str(pair.family))
        for pair in pairs
    ]


def coverage_table(
    answered: Sequence[Answered], splits: int, kept: Calibration | None
) -> Iterator[str]:
    """Rows: risk or k, share of N <= N_W over all and per family, and the mean N_W.

    Rows "as kept" are all prompts under the calibration that the predictor's checkpoint has, in as
    many orders: what a plan is, depends on the request's place as well.
    """
    families = sorted({each.family for each in answered})
    names = "".join(f"{family:>9}" for family in families)
    yield f"{'':>9}{'goal':>7}{'covered':>9}{'+-':>8}{'N_W':>7}{names}"
    rng = np.random.default_rng(0)
    orders = [_halves(rng.permutation(len(answered))) for _ in range(splits)]
    for risk in RISKS:
        runs = []
        for calibrating, counted in orders:
            tracker = CoverageTracker(calibration_of([answered[i] for i in calibrating]))
            test = [answered[i] for i in counted]
            runs.append((test, planned_tokens(tracker, test, risk)))
        yield coverage_row(f"risk {risk:g}", f"{1.0 - risk:g}", runs, families)
        if kept is not None:
            runs = []
            for halves in orders:
                shuffled = [answered[i] for i in np.concatenate(halves)]
                runs.append((shuffled, planned_tokens(CoverageTracker(kept), shuffled, risk)))
            yield coverage_row("as kept", f"{1.0 - risk:g}", runs, families)
    for k in PESSIMISMS:
        predicted = [each.lengths.predicted_tokens(LONGEST_RESPONSE) for each in answered]
        planned = [min(math.ceil(k * n), LONGEST_RESPONSE) for n in predicted]
        yield coverage_row(f"k {k:g}", "", [(answered, planned)], families)


def planned_tokens(
    tracker: CoverageTracker, answered: Sequence[Answered], risk: float
) -> list[int]:
    """N_W of every request, as the node plans it before it has seen any response."""
    known = (tracker.assess(each.lengths) for each in answered)
    return [each.planned_tokens(risk, LONGEST_RESPONSE) for each in known]


def coverage_row(
    name: str,
    goal: str,
    runs: Sequence[tuple[Sequence[Answered], Sequence[int]]],
    families: Sequence[str],
) -> str:
    """One row, from the responses and the lengths planned for them in every run."""
    covered = [
        np.array([each.response_tokens <= most for each, most in zip(test, planned, strict=True)])
        for test, planned in runs
    ]
    shares = [within.mean() for within in covered]
    within = np.concatenate(covered)
    family = np.array([each.family for test, _ in runs for each in test])
    figures = "".join(f"{within[family == name].mean():9.3f}" for name in families)
    length = np.mean([most for _, planned in runs for most in planned])
    return f"{name:>9}{goal:>7}{np.mean(shares):9.4f}{np.std(shares):8.4f}{length:7.1f}{figures}"


def covered_streams(
    usual: Sequence[Answered],
    evicted: Sequence[Answered],
    after: Mapping[str, float],
    streams: int,
    *,
    adapt: bool,
) -> NDArray[np.bool_]:
    """Whether N <= N_W, shape [risks, streams, requests]; the workload changes after ``BEFORE``.

    Half of the usual prompts calibrate; the requests are drawn from the other half, and then from
    those with ``evicted`` caches by the mix ``after``.
    """
    rng = np.random.default_rng(1)
    covered = np.empty((len(RISKS), streams, BEFORE + AFTER), dtype=bool)
    families = [each.family for each in evicted]
    counts = {family: families.count(family) for family in set(families)}
    weights = np.array([after.get(family, 0.0) / counts[family] for family in families])
    for stream in range(streams):
        calibrating, rest = _halves(rng.permutation(len(usual)))
        tracker = CoverageTracker(calibration_of([usual[i] for i in calibrating]))
        requests = [usual[i] for i in rng.choice(rest, BEFORE)]
        changed = rng.choice(len(evicted), AFTER, p=weights / weights.sum())
        requests += [evicted[i] for i in changed]
        for _ in range(stream):
            # So that the streams do not share the sequence of places.
            tracker.assess(requests[0].lengths)
        for number, each in enumerate(requests):
            alpha = 0.0 if number < BEFORE else EVICTED
            known = tracker.assess(each.lengths).at(alpha)
            planned = [known.planned_tokens(risk, LONGEST_RESPONSE) for risk in RISKS]
            covered[:, stream, number] = each.response_tokens <= np.array(planned)
            if adapt:
                tracker.observe(known, each.response_tokens, complete=True, alpha=alpha)
    return covered


def calibration_of(answered: Sequence[Answered]) -> Calibration:
    """What these prompts and responses say of the predictor."""
    return fit_calibration(
        [each.lengths for each in answered], [each.response_tokens for each in answered]
    )


def stream_table(fixed: NDArray[np.bool_], adapted: NDArray[np.bool_]) -> Iterator[str]:
    """Coverage before the change and in the hundreds of requests after it."""
    spans = [(-BEFORE, 0), (0, 100), (100, 200), (200, 400), (400, 600)]
    yield f"{'risk':>6}{'window':>8}" + "".join(f"{f'{a}..{b}':>12}" for a, b in spans)
    for row, risk in enumerate(RISKS):
        for name, covered in (("fixed", fixed[row]), ("last", adapted[row])):
            means = [covered[:, BEFORE + a : BEFORE + b].mean() for a, b in spans]
            yield f"{risk:6g}{name:>8}" + "".join(f"{mean:12.3f}" for mean in means)


def write_streams(path: Path, fixed: NDArray[np.bool_], adapted: NDArray[np.bool_]) -> None:
    """One row per risk and request: the shares of all streams that were covered."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("risk", "request", "covered_fixed", "covered_adapted"))
        for row, risk in enumerate(RISKS):
            shares = zip(fixed[row].mean(axis=0), adapted[row].mean(axis=0), strict=True)
            writer.writerows((risk, n, f"{a:.4f}", f"{b:.4f}") for n, (a, b) in enumerate(shares))


def _halves(order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return order[: order.size // 2], order[order.size // 2 :]


if __name__ == "__main__":
    main()
