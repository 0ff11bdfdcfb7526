# SPDX-License-Identifier: Apache-2.0
"""The embedded model on held-out tasks: ``python -m timebill_ros.training.embedded.evaluate``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from timebill_ros.engine.eviction import EVICTION_METHODS
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.training.embedded.generation import (
    CHECKPOINT,
    OBSERVATION_WINDOW,
    Generated,
    generate,
    open_engine,
)
from timebill_ros.workload.score import exact_match, score
from timebill_ros.workload.tasks import Family, Task, sample_task

# Training draws from small seeds; tasks of this one were never seen.
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Quality:
    """Means over the tasks of one family and prompt length after one eviction.

    ``score`` is 0 to 100 by the family's metric, ``score_deviation`` its standard deviation over
    the tasks; the rest are shares.
    """

    method: str
    alpha: float
    prompt_tokens: int
    family: str
    tasks: int
    exact: float
    score: float
    score_deviation: float
    length_right: float
    ran_to_cap: float


def held_out_tasks(family: Family, prompt_tokens: int, count: int) -> list[Task]:
    """The same tasks for every model and eviction, in wordings and layouts of their own."""
    rng = np.random.default_rng([HELD_OUT_SEED, list(Family).index(family), prompt_tokens])
    return [sample_task(rng, family, prompt_tokens, held_out=True) for _ in range(count)]


def measure(
    engine: TransformerEngine,
    method: str,
    lengths: Sequence[int],
    alphas: Sequence[float],
    count: int,
) -> Iterator[Quality]:
    """Yield the quality of every length, ratio and family; ``method`` is the engine's."""
    for length, alpha, family in product(lengths, alphas, Family):
        tasks = held_out_tasks(family, length, count)
        answers = [generate(engine, task, alpha) for task in tasks]
        yield Quality(method, alpha, length, str(family), count, *_scores(tasks, answers))


def measure_methods(
    open_with: Callable[[str], TransformerEngine],
    methods: Sequence[str],
    lengths: Sequence[int],
    alphas: Sequence[float],
    count: int,
) -> Iterator[Quality]:
    """Yield the quality under every method; that without eviction is measured once, for all."""
    whole: list[Quality] = []
    for method in methods:
        yield from (replace(quality, method=method) for quality in whole)
        ratios = [alpha for alpha in alphas if alpha > 0.0 or not whole]
        for quality in measure(open_with(method), method, lengths, ratios, count):
            if quality.alpha == 0.0:
                whole.append(quality)
            yield quality


def _scores(tasks: list[Task], answers: list[Generated]) -> list[float]:
    pairs = list(zip(tasks, answers, strict=True))
    scores = [score(task.family, answer.text, task.reference) for task, answer in pairs]
    figures = (
        np.mean([exact_match(answer.text, task.reference) for task, answer in pairs]),
        np.mean(scores),
        np.std(scores),
        np.mean([answer.response_tokens == task.reference_tokens for task, answer in pairs]),
        np.mean([answer.finish_reason is FinishReason.LENGTH for answer in answers]),
    )
    return [round(float(figure), 4) for figure in figures]


def main() -> None:
    """Write a CSV of the measured quality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0])
    parser.add_argument(
        "--methods", nargs="+", default=["snapkv"], choices=EVICTION_METHODS, metavar="METHOD"
    )
    parser.add_argument("--count", type=int, default=20, help="tasks per family and length")
    parser.add_argument("--window", type=int, default=OBSERVATION_WINDOW)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=Path, help="file to write (default: standard output)")
    arguments = parser.parse_args()

    def open_with(method: str) -> TransformerEngine:
        return open_engine(
            arguments.checkpoint,
            threads=arguments.threads,
            window=arguments.window,
            method=method,
        )

    with arguments.csv.open("w", newline="") if arguments.csv else nullcontext(sys.stdout) as file:
        writer = csv.DictWriter(file, list(Quality.__dataclass_fields__))
        writer.writeheader()
        qualities = measure_methods(
            open_with,
            arguments.methods,
            arguments.lengths,
            arguments.alphas,
            arguments.count,
        )
        for quality in qualities:
            writer.writerow(asdict(quality))
            file.flush()


if __name__ == "__main__":
    main()
