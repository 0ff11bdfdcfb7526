# SPDX-License-Identifier: Apache-2.0
"""Quality over the eviction ratio, from rows: ``python -m timebill_ros.training.embedded.curves``.

Reads the CSV of ``timebill_ros.training.embedded.evaluate``, writes Q(alpha) of every eviction
method for planners to read, and draws it.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timebill_ros.budget.quality import (
    QualityCurve,
    QualityFile,
    QualityPoint,
    read_quality,
    write_quality,
)
from timebill_ros.training.embedded.evaluate import Quality
from timebill_ros.workload.tasks import DEFAULT_MIX, Family

# Colours of Okabe and Ito, which colour-blind readers can tell apart; markers say the same again.
_STYLES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#000000", "x"),
    ("#56b4e9", "P"),
    ("#999999", "*"),
)


def read_rows(path: Path) -> list[Quality]:
    """Read the rows that ``evaluate`` wrote."""
    types = get_type_hints(Quality)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [Quality(**{name: types[name](value) for name, value in row.items()}) for row in rows]


def quality_curves(rows: Iterable[Quality]) -> dict[str, QualityCurve]:
    """Q(alpha) of every method: the families' means, weighted as the workload draws them.

    Raises:
        ValueError: rows of several prompt lengths, or a family that is missing at some ratio.
    """
    cells: dict[str, dict[float, list[Quality]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.method][row.alpha].append(row)
    return {
        method: QualityCurve(tuple(_point(alpha, ratios[alpha]) for alpha in sorted(ratios)))
        for method, ratios in cells.items()
    }


def _point(alpha: float, rows: Sequence[Quality]) -> QualityPoint:
    if sorted(row.family for row in rows) != sorted(DEFAULT_MIX):
        raise ValueError(f"alpha {alpha:g} needs one row of every family, and one prompt length")
    shares = {row: DEFAULT_MIX[Family(row.family)] for row in rows}
    variance = sum((w * row.score_deviation) ** 2 / row.tasks for row, w in shares.items())
    return QualityPoint(
        alpha,
        score=round(sum(w * row.score for row, w in shares.items()), 3),
        standard_error=round(math.sqrt(variance), 3),
        ran_to_cap=round(sum(w * row.ran_to_cap for row, w in shares.items()), 4),
    )


def table(curves: Mapping[str, QualityCurve]) -> str:
    """Scores and standard errors by method and ratio, and runaway answers at the last, Markdown."""
    alphas = [f"{point.dropped:g}" for point in next(iter(curves.values())).points]
    lines = ["| method | " + " | ".join([*alphas, f"to the cap at {alphas[-1]}"]) + " |"]
    lines.append("|---" * (len(alphas) + 2) + "|")
    for method, curve in curves.items():
        cells = [f"{point.score:.1f} ± {point.standard_error:.1f}" for point in curve.points]
        lines.append(f"| {method} | {' | '.join(cells)} | {curve.points[-1].ran_to_cap:.1%} |")
    return "\n".join(lines)


def draw(path: Path, curves: Mapping[str, QualityCurve], rows: Sequence[Quality]) -> None:
    """Write a picture: the methods' means and runaway answers, and every family by method."""
    figure = Figure(figsize=(14.0, 10.5), layout="constrained")
    FigureCanvasAgg(figure)
    columns = math.ceil(len(Family) / 2)
    grid = figure.add_gridspec(4, columns)
    means = figure.add_subplot(grid[:2, : columns // 2])
    runaways = figure.add_subplot(grid[:2, columns // 2 :])
    _draw_means(means, runaways, curves)
    for i, family in enumerate(Family):
        axes = figure.add_subplot(grid[2 + i // columns, i % columns])
        axes.set_title(f"{family} ({DEFAULT_MIX[family]:.0%} of the mix)", loc="left", fontsize=10)
        for method, (color, marker) in zip(curves, _STYLES, strict=False):
            cells = [row for row in rows if (row.method, row.family) == (method, family)]
            cells.sort(key=lambda row: row.alpha)
            alphas = [row.alpha for row in cells]
            axes.plot(alphas, [row.score for row in cells], color=color, marker=marker, ms=4)
        axes.set_ylim(0.0, 104.0)
    for axes in figure.axes:
        axes.grid(color="#e6e6e6")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("eviction ratio alpha", fontsize=10)
    figure.savefig(path, dpi=100)


def _draw_means(means: Axes, runaways: Axes, curves: Mapping[str, QualityCurve]) -> None:
    means.set_title("Mean score of the workload's mix, and two standard errors", loc="left")
    runaways.set_title("Answers that ran on to the cap, %", loc="left")
    for (method, curve), (color, marker) in zip(curves.items(), _STYLES, strict=False):
        alphas = [point.dropped for point in curve.points]
        scores = [point.score for point in curve.points]
        errors = [2.0 * point.standard_error for point in curve.points]
        shares = [100.0 * point.ran_to_cap for point in curve.points]
        means.errorbar(alphas, scores, errors, color=color, marker=marker, capsize=3, label=method)
        runaways.plot(alphas, shares, color=color, marker=marker)
    means.set_ylim(0.0, 104.0)
    runaways.set_ylim(bottom=0.0)
    means.legend(frameon=False)


def main() -> None:
    """Print the curves of a CSV, write them and their picture where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("csv", type=Path, help="rows of timebill_ros.training.embedded.evaluate")
    parser.add_argument("--json", type=Path, help="file of curves to write them to")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    rows = read_rows(arguments.csv)
    curves = quality_curves(rows)
    print(table(curves))
    if arguments.json:
        measured = read_quality(arguments.json) if arguments.json.exists() else QualityFile()
        write_quality(arguments.json, replace(measured, eviction=curves))
    if arguments.picture:
        draw(arguments.picture, curves, rows)


if __name__ == "__main__":
    main()
