# SPDX-License-Identifier: Apache-2.0
"""What a comparison shows: tables with paired bootstrap intervals, and the paper's Fig. 7 and 8."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from timebill_ros.bench.intervals import interval_of_mean
from timebill_ros.bench.methods import PESSIMISMS, title
from timebill_ros.bench.outcomes import IN_TIME, Row


@dataclass(frozen=True)
class Results:
    """The rows of one policy as arrays, so that a case is the same place in every method.

    Attributes:
        methods, budgets, cases: what there is, in order.
        scores, in_time, cut: shape [methods, budgets, cases]; ``cut`` by deadlines, in time too.
    """

    methods: Sequence[str]
    budgets: Sequence[float]
    cases: Sequence[str]
    scores: NDArray[np.float64]
    in_time: NDArray[np.bool_]
    cut: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row], policy: str) -> Results:
        """Those of the rows that are of this policy."""
        own = [row for row in rows if row.policy == policy]
        methods = list(dict.fromkeys(row.method for row in own))
        budgets = sorted({row.budget for row in own})
        cases = list(dict.fromkeys(row.case for row in own))
        shape = (len(methods), len(budgets), len(cases))
        place = [{name: i for i, name in enumerate(names)} for names in (methods, cases)]
        scores, in_time, cut = (np.zeros(shape, dtype=kind) for kind in (float, bool, bool))
        for row in own:
            cell = place[0][row.method], budgets.index(row.budget), place[1][row.case]
            scores[cell], in_time[cell] = row.score, row.outcome in IN_TIME
            cut[cell] = row.outcome == "truncated"
        return cls(methods, budgets, cases, scores, in_time, cut)

    def difference(self, method: str, other: str, seed: int = 0) -> tuple[float, float, float]:
        """Mean score of ``method`` less that of ``other``, and its interval of 95 %.

        A paired bootstrap: cases are drawn with replacement, the same ones for both.
        """
        first, second = (self.scores[self.methods.index(name)] for name in (method, other))
        each = (first - second).mean(axis=0)
        return float(each.mean()), *interval_of_mean(each, seed)


def tables(
    rows: Sequence[Row], quantiles: Mapping[float, str], reference: str = "vanilla"
) -> Iterator[str]:
    """Markdown: for every policy the mean scores by budget, and the shares that came in time.

    Differences are to the method ``reference``. Where deadlines cut answers a column says how
    many: they are in time too.
    """
    for policy in dict.fromkeys(row.policy for row in rows):
        results = Results.of(rows, policy)
        cuts = bool(results.cut.any())
        heads = [quantiles.get(budget, f"{budget:.3g} s") for budget in results.budgets]
        yield f"### {policy}, mean score of {len(results.cases)} cases"
        yield ""
        more = ["mean", f"against {title(reference)}", "in time", *(["cut"] if cuts else [])]
        yield f"| plan | {' | '.join([*heads, *more])} |"
        yield "|---" * (len(heads) + len(more) + 1) + "|"
        for i, method in enumerate(results.methods):
            means = results.scores[i].mean(axis=1)
            cells = [f"{mean:.1f}" for mean in means]
            cells += [f"**{means.mean():.1f}**", _against(results, method, reference)]
            cells += [f"{each[i].mean():.1%}" for each in (results.in_time, results.cut)]
            yield f"| {' | '.join([title(method), *cells[: None if cuts else -1]])} |"
        yield ""


def _against(results: Results, method: str, reference: str) -> str:
    if method == reference or reference not in results.methods:
        return ""
    mean, low, high = results.difference(method, reference)
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


# Colours of Okabe and Ito, which colour-blind readers can tell apart; markers say the same again.
_STYLES = (
    *(("#000000", "x"), ("#999999", "v"), ("#56b4e9", "^"), ("#0072b2", "<"), ("#cc79a7", ">")),
    *(("#e69f00", "D"), ("#f0e442", "P"), ("#009e73", "s"), ("#d55e00", "o"), ("#7f3c8d", "*")),
    ("#7f7f00", "h"),
)
# Those of Fig. 7, with what came since.
_SHOWN = (
    *("vanilla", "fixed-0.25", "fixed-0.5", "fixed-0.75", "fixed-0.95"),
    *("timebill-k1", "timebill-k5", "expected-alpha", "expected", "hindsight", "quantised"),
)


def draw_budgets(path: Path, rows: Sequence[Row]) -> None:
    """Fig. 7: mean score and completion rate over the budget, a column for each policy."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    figure = Figure(figsize=(6.2 * len(policies) + 1.5, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(policies), sharex=True, sharey="row", squeeze=False)
    for column, policy in enumerate(policies):
        results = Results.of(rows, policy)
        shown = [name for name in _SHOWN if name in results.methods]
        for name, (color, marker) in zip(shown, _STYLES, strict=False):
            i = results.methods.index(name)
            style = {"color": color, "marker": marker, "label": title(name)}
            axes[0, column].plot(results.budgets, results.scores[i].mean(axis=1), **style)
            axes[1, column].plot(results.budgets, results.in_time[i].mean(axis=1), **style)
        axes[0, column].set_title(f"{policy}: mean score", loc="left")
        axes[1, column].set_title(f"{policy}: completion rate", loc="left")
        axes[1, column].set_xlabel("budget, s")
        axes[0, column].set_ylim(0.0, _top(rows))
        axes[1, column].set_ylim(0.0, 1.02)
    for each in axes.flat:
        _bare(each)
    _legend_beside(figure, axes[1, -1])
    figure.savefig(path, dpi=110)


def draw_pessimism(path: Path, rows: Sequence[Row]) -> None:
    """Fig. 8: mean score over k, a line for each budget and one for their mean, by policy."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    figure = Figure(figsize=(6.2 * len(policies), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(policies), sharey=True, squeeze=False)[0]
    for each, policy in zip(axes, policies, strict=True):
        results = Results.of(rows, policy)
        factors = [k for k, name in PESSIMISMS.items() if name in results.methods]
        places = [results.methods.index(PESSIMISMS[k]) for k in factors]
        means = results.scores[places].mean(axis=2)
        for j, budget in enumerate(results.budgets):
            color, marker = _STYLES[j % len(_STYLES)]
            each.plot(factors, means[:, j], color=color, marker=marker, label=f"{budget:.3g} s")
        each.plot(factors, means.mean(axis=1), color="#d55e00", lw=3, label="mean of the budgets")
        each.set_title(f"{policy}: mean score", loc="left")
        each.set_xlabel("pessimism k")
        each.set_ylim(0.0, _top(rows))
        _bare(each)
    _legend_beside(figure, axes[-1])
    figure.savefig(path, dpi=110)


def _legend_beside(figure: Figure, axes: Axes) -> None:
    """Name the lines outside of the plots, where the legend covers none of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)


def _top(rows: Sequence[Row]) -> float:
    """A little above the best mean that could be: that of every case's best score."""
    best: dict[str, float] = {}
    for row in rows:
        best[row.case] = max(best.get(row.case, 0.0), row.score)
    return max(1.0, 1.02 * sum(best.values()) / max(1, len(best)))


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", zorder=0)
    axes.set_axisbelow(True)
