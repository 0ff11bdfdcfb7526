# SPDX-License-Identifier: Apache-2.0
"""Tables of scores and completion, with paired bootstrap intervals for what they claim."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timebill_ros.bench.methods import METHODS
from timebill_ros.bench.outcomes import Row

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percent
_REFERENCE = "vanilla"


@dataclass(frozen=True)
class Results:
    """The rows of one policy as arrays, so that a case is the same place in every method.

    Attributes:
        methods, budgets, cases: what there is, in order.
        scores, in_time: shape [methods, budgets, cases].
    """

    methods: Sequence[str]
    budgets: Sequence[float]
    cases: Sequence[str]
    scores: NDArray[np.float64]
    in_time: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row], policy: str) -> Results:
        """Those of the rows that are of this policy."""
        own = [row for row in rows if row.policy == policy]
        methods = list(dict.fromkeys(row.method for row in own))
        budgets = sorted({row.budget for row in own})
        cases = list(dict.fromkeys(row.case for row in own))
        shape = (len(methods), len(budgets), len(cases))
        place = [{name: i for i, name in enumerate(names)} for names in (methods, cases)]
        scores, in_time = np.zeros(shape), np.zeros(shape, dtype=bool)
        for row in own:
            cell = place[0][row.method], budgets.index(row.budget), place[1][row.case]
            scores[cell], in_time[cell] = row.score, row.outcome == "in time"
        return cls(methods, budgets, cases, scores, in_time)

    def difference(self, method: str, other: str, seed: int = 0) -> tuple[float, float, float]:
        """Mean score of ``method`` less that of ``other``, and its interval of 95 %.

        A paired bootstrap: cases are drawn with replacement, the same ones for both.
        """
        first, second = (self.scores[self.methods.index(name)] for name in (method, other))
        each = (first - second).mean(axis=0)
        drawn = np.random.default_rng(seed).integers(each.size, size=(_RESAMPLES, each.size))
        low, high = np.percentile(each[drawn].mean(axis=1), _INTERVAL)
        return float(each.mean()), float(low), float(high)


def tables(rows: Sequence[Row], quantiles: Mapping[float, str]) -> Iterator[str]:
    """Markdown: for every policy the mean scores by budget, and the shares that came in time."""
    for policy in dict.fromkeys(row.policy for row in rows):
        results = Results.of(rows, policy)
        heads = [quantiles.get(budget, f"{budget:.3g} s") for budget in results.budgets]
        yield f"### {policy}, mean score of {len(results.cases)} cases"
        yield ""
        yield f"| plan | {' | '.join(heads)} | mean | against {_REFERENCE} | in time |"
        yield "|---" * (len(heads) + 4) + "|"
        for i, method in enumerate(results.methods):
            means = results.scores[i].mean(axis=1)
            cells = [f"{mean:.1f}" for mean in means]
            yield (
                f"| {METHODS[method].title} | {' | '.join(cells)} | **{means.mean():.1f}** "
                f"| {_against(results, method)} | {results.in_time[i].mean():.1%} |"
            )
        yield ""


def _against(results: Results, method: str) -> str:
    if method == _REFERENCE or _REFERENCE not in results.methods:
        return ""
    mean, low, high = results.difference(method, _REFERENCE)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """One line per job, method, budget and policy."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _short(value) for name, value in asdict(row).items()})


def write_means(path: Path, rows: Sequence[Row]) -> None:
    """One line per policy, method and budget: what the tables and the pictures show."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["policy", "method", "budget", "cases", "score", "in_time"])
        for policy in dict.fromkeys(row.policy for row in rows):
            results = Results.of(rows, policy)
            for i, method in enumerate(results.methods):
                for j, budget in enumerate(results.budgets):
                    figures = (results.scores[i, j].mean(), results.in_time[i, j].mean())
                    cells = [_short(float(figure)) for figure in (budget, *figures)]
                    writer.writerow([policy, method, cells[0], len(results.cases), *cells[1:]])


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
