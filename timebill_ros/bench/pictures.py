# SPDX-License-Identifier: Apache-2.0
"""The paper's Fig. 7 and 8: score and completion over the budget, and over the pessimism."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timebill_ros.bench.methods import METHODS, PESSIMISMS
from timebill_ros.bench.outcomes import Row
from timebill_ros.bench.report import Results

# Colours of Okabe and Ito, which colour-blind readers can tell apart; markers say the same again.
_STYLES = (
    *(("#000000", "x"), ("#999999", "v"), ("#56b4e9", "^"), ("#0072b2", "<"), ("#cc79a7", ">")),
    *(("#e69f00", "D"), ("#f0e442", "P"), ("#009e73", "s"), ("#d55e00", "o"), ("#7f3c8d", "*")),
)
# Those of Fig. 7, with what came since.
_SHOWN = (
    *("vanilla", "fixed-0.25", "fixed-0.5", "fixed-0.75", "fixed-0.95"),
    *("timebill-k1", "timebill-k5", "expected-alpha", "expected", "hindsight"),
)


def draw_budgets(path: Path, rows: Sequence[Row]) -> None:
    """Fig. 7: mean score and completion rate over the budget, a column for each policy."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    figure = Figure(figsize=(6.2 * len(policies), 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(policies), sharex=True, sharey="row", squeeze=False)
    for column, policy in enumerate(policies):
        results = Results.of(rows, policy)
        shown = [name for name in _SHOWN if name in results.methods]
        for name, (color, marker) in zip(shown, _STYLES, strict=False):
            i = results.methods.index(name)
            style = {"color": color, "marker": marker, "label": METHODS[name].title}
            axes[0, column].plot(results.budgets, results.scores[i].mean(axis=1), **style)
            axes[1, column].plot(results.budgets, results.in_time[i].mean(axis=1), **style)
        axes[0, column].set_title(f"{policy}: mean score", loc="left")
        axes[1, column].set_title(f"{policy}: completion rate", loc="left")
        axes[1, column].set_xlabel("budget, s")
        axes[0, column].set_ylim(0.0, 102.0)
        axes[1, column].set_ylim(0.0, 1.02)
    for each in axes.flat:
        _bare(each)
    axes[1, -1].legend(frameon=False, loc="lower right", fontsize=9)
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
        each.set_ylim(0.0, 102.0)
        _bare(each)
    axes[-1].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", zorder=0)
    axes.set_axisbelow(True)
