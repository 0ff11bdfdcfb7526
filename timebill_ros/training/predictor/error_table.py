# SPDX-License-Identifier: Apache-2.0
"""What tables of length predictors have in common: decision rules, results in a file, the table."""

from __future__ import annotations

import csv
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.training.predictor.assessment import length_errors
from timebill_ros.training.predictor.baselines import LengthClasses


@dataclass(frozen=True)
class Result:
    """Errors of one training run under one decision rule, tokens but for R2."""

    method: str
    classes: int
    rule: str
    seed: int
    mae: float
    rmse: float
    r2: float
    train_seconds: float
    """CPU time of training."""


def absolute_error(outputs: Tensor, lengths: Sequence[int]) -> Tensor:
    """The loss of a regression, which minimises its MAE; outputs [batch, 1]."""
    return F.l1_loss(outputs[:, 0], torch.tensor(lengths, dtype=outputs.dtype))


def decisions(
    outputs: Tensor,
    classes: LengthClasses | None,
    lengths: Sequence[int],
    longest_response: int,
) -> dict[str, np.ndarray]:
    """Predicted lengths [pairs] by each decision rule; ``lengths`` are those of training."""
    if classes is None:
        predicted = outputs[:, 0].numpy()
        return {"value": predicted.clip(1.0, longest_response)}
    likeliest = outputs.argmax(1).numpy()
    return {"upper edge": classes.upper[likeliest], "class mean": classes.means(lengths)[likeliest]}


class Made(NamedTuple):
    """Who predicts: the name of the row, its seed, its time of training (s), and its classes."""

    name: str
    seed: int
    seconds: float
    classes: LengthClasses | None


def errors_of(
    made: Made, outputs: Tensor, known: Sequence[int], actual: Sequence[int], most: int
) -> list[Result]:
    """The errors of outputs [prompts, classes] under each decision rule.

    Beside the paper's upper edge and the class's mean those by the whole distribution: its
    expectation, and the mean of the class that its median is in.
    """
    predicted = decisions(outputs, made.classes, known, most)
    if made.classes is not None:
        means, shares = made.classes.means(known), outputs.double().softmax(1).numpy()
        predicted["expected length"] = shares @ means
        predicted["median"] = means[(shares.cumsum(1) >= 0.5 - 1e-9).argmax(1)]
    return results_of(made, predicted, actual)


def results_of(
    made: Made, predicted: Mapping[str, np.ndarray], actual: Sequence[int]
) -> list[Result]:
    """The errors of predicted lengths [prompts], by decision rule."""
    count = made.classes.count if made.classes else 0
    return [
        Result(made.name, count, rule, made.seed, *length_errors(told, actual), made.seconds)
        for rule, told in predicted.items()
    ]


def add_table_arguments(parser: ArgumentParser, methods: Sequence[str], tuned_on: str) -> None:
    """The arguments of a command that runs what its results file lacks; ``tuned_on``: a part."""
    parser.add_argument("--results", type=Path, required=True, help="CSV, a row per run and rule")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="METHOD")
    parser.add_argument(
        "--measure-on",
        choices=["held_out", tuned_on],
        default="held_out",
        help="what is chosen, as a learning rate is, must not be chosen on the held-out pairs",
    )


def read_results(path: Path) -> list[Result]:
    """What earlier runs wrote; nothing where there is no file."""
    if not path.exists():
        return []
    kinds = {"classes": int, "seed": int, "mae": float, "rmse": float, "r2": float}
    kinds["train_seconds"] = float
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return [Result(**{key: kinds.get(key, str)(row[key]) for key in row}) for row in rows]


def append_results(path: Path, results: Sequence[Result]) -> None:
    """Add rows to the results file."""
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(Result.__dataclass_fields__))
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(result) for result in results)


def table(results: Iterable[Result], order: Sequence[str]) -> str:
    """Markdown: a row per method and rule, each figure as mean +/- standard deviation of seeds.

    ``order`` has the names of the methods, which no result may lack.
    """
    rows = defaultdict(list)
    for result in results:
        rows[result.method, result.classes, result.rule].append(result)
    lines = [
        "| predictor | classes | predicted length | MAE | RMSE | R2 | CPU time of training |",
        "|---|---|---|---|---|---|---|",
    ]
    for (method, classes, rule), runs in sorted(rows.items(), key=lambda r: order.index(r[0][0])):
        mae = _spread([run.mae for run in runs], 1)
        rmse = _spread([run.rmse for run in runs], 1)
        r2 = _spread([run.r2 for run in runs], 3)
        seconds = f"{np.mean([run.train_seconds for run in runs]):.0f} s"
        lines.append(
            f"| {method} | {classes or '-'} | {rule} | {mae} | {rmse} | {r2} | {seconds} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"
