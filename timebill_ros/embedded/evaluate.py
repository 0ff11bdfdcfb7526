# SPDX-License-Identifier: Apache-2.0
"""Measure the embedded model on held-out tasks: ``python -m timebill_ros.embedded.evaluate``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from timebill_ros.embedded.generation import (
    CHECKPOINT,
    OBSERVATION_WINDOW,
    Generated,
    generate,
    open_engine,
)
from timebill_ros.engine.finish import FinishReason
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.workload.metrics import exact_match, token_f1
from timebill_ros.workload.tasks import Family, Task, sample_task

# Training draws from small seeds; tasks of this one were never seen.
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Quality:
    """Means over the tasks of one family, prompt length and eviction ratio."""

    family: str
    prompt_tokens: int
    alpha: float
    tasks: int
    exact: float
    f1: float
    length_right: float
    ran_to_cap: float


def held_out_tasks(family: Family, prompt_tokens: int, count: int) -> list[Task]:
    """The same tasks for every model and eviction ratio."""
    rng = np.random.default_rng([HELD_OUT_SEED, list(Family).index(family), prompt_tokens])
    return [sample_task(rng, family, prompt_tokens) for _ in range(count)]


def measure(
    engine: TransformerEngine, lengths: list[int], alphas: list[float], count: int
) -> Iterator[Quality]:
    """Yield the quality of every length, family and ratio."""
    for length, family, alpha in product(lengths, Family, alphas):
        tasks = held_out_tasks(family, length, count)
        answers = [generate(engine, task, alpha) for task in tasks]
        yield Quality(str(family), length, alpha, count, *_scores(tasks, answers))


def _scores(tasks: list[Task], answers: list[Generated]) -> list[float]:
    rows = [
        (
            exact_match(answer.text, task.reference),
            token_f1(answer.text, task.reference),
            answer.response_tokens == task.reference_tokens,
            answer.finish_reason is FinishReason.LENGTH,
        )
        for task, answer in zip(tasks, answers, strict=True)
    ]
    return [round(float(column), 4) for column in np.mean(rows, axis=0)]


def main() -> None:
    """Print a CSV of the measured quality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0])
    parser.add_argument("--count", type=int, default=20, help="tasks per family and length")
    parser.add_argument("--window", type=int, default=OBSERVATION_WINDOW)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    engine = open_engine(arguments.checkpoint, threads=arguments.threads, window=arguments.window)
    writer = csv.DictWriter(sys.stdout, list(Quality.__dataclass_fields__))
    writer.writeheader()
    for quality in measure(engine, arguments.lengths, arguments.alphas, arguments.count):
        writer.writerow(asdict(quality))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
