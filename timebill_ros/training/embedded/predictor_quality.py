# SPDX-License-Identifier: Apache-2.0
"""The shipped predictor on pairs: ``python -m timebill_ros.training.embedded.predictor_quality``.

Prints its quality on all of them, by family, without the answers that ran to the cap, and with
shortened inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from timebill_ros.predictor.length_predictor import LengthPredictor, load_predictor
from timebill_ros.training.embedded.collect_lengths import PairSet
from timebill_ros.training.embedded.generation import LONGEST_RESPONSE, PREDICTOR
from timebill_ros.training.embedded.lengths import TaskPair, read_pairs
from timebill_ros.training.predictor.assessment import LengthQuality, length_quality
from timebill_ros.workload.tasks import Family

INPUTS = (None, 4096, 2048, 1024, 512, 256, 128, 64, 32)


def measure(
    predictor: LengthPredictor,
    pairs: Sequence[TaskPair],
    max_tokens: int,
    max_input: int | None = None,
) -> LengthQuality:
    """Predict every pair's length from at most ``max_input`` of its tokens, and compare."""
    predicted = [predictor.predict("", pair.prompt_ids, max_input) for pair in pairs]
    return length_quality(predicted, [pair.response_tokens for pair in pairs], max_tokens)


def table(rows: dict[str, LengthQuality]) -> str:
    """Markdown, a row per group of pairs."""
    lines = [
        "| | pairs | MAE | MAE of the middle | RMSE | R2 | right bucket | N <= N_hat |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {q.pairs} | {q.mae:.1f} | {q.mae_of_middle:.1f} | {q.rmse:.1f} | {q.r2:.3f} "
        f"| {q.bucket_accuracy:.3f} | {q.covered:.3f} |"
        for name, q in rows.items()
    ]
    return "\n".join(lines)


def groups(pairs: Sequence[TaskPair]) -> dict[str, list[TaskPair]]:
    """All pairs, those that ended before the cap, and those of each family that has any."""
    members = {
        "all": list(pairs),
        "ended before the cap": [p for p in pairs if p.response_tokens < LONGEST_RESPONSE],
    }
    members |= {str(family): [p for p in pairs if p.family is family] for family in Family}
    return {name: group for name, group in members.items() if group}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="as collect_lengths wrote them")
    parser.add_argument("--set", default="held_out", help="which of its sets")
    parser.add_argument("--predictor", type=Path, default=PREDICTOR)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    predictor = load_predictor(arguments.predictor, threads=arguments.threads)
    pairs = read_pairs(PairSet.path(arguments.pairs, arguments.set))
    by_group = {
        name: measure(predictor, group, LONGEST_RESPONSE) for name, group in groups(pairs).items()
    }
    print(table(by_group), end="\n\n")
    by_input = {
        "whole prompt" if limit is None else f"{limit} tokens": measure(
            predictor, pairs, LONGEST_RESPONSE, limit
        )
        for limit in INPUTS
    }
    print(table(by_input))


if __name__ == "__main__":
    main()
