# SPDX-License-Identifier: Apache-2.0
"""The picture of a replay: who met the deadline and when, how fast answers were, what was left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from timebill_ros.client.record import Ending
from timebill_ros.replay.figures import SERIES, Figures
from timebill_ros.replay.picture import look_of

_DEADLINE = "#000000"
_CURVE = "#0072b2"
_MOST_BUDGETS = 2.0  # what took longer is drawn here, budgets
_SMALLEST, _LARGEST = 2.0, 7.0  # of a mark, points: many must not hide each other
_QUANTILES = {"latency": ("p50", "p90", "p99"), "slack": ("p01", "p10", "p50")}


def draw_replay(path: Path, figures: Figures, title: str) -> None:
    """Write the picture as PNG."""
    figure = Figure(figsize=(13.0, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic([["run", "run"], ["latency", "slack"]], height_ratios=[1.25, 1])
    _draw_run(panels["run"], figures)
    _draw_quantiles(panels["latency"], figures, "latency", "release to answer [s]")
    _draw_quantiles(panels["slack"], figures, "slack", "deadline minus answer [s]")
    panels["slack"].axvline(0.0, color=_DEADLINE, lw=1.6)
    figure.suptitle(
        f"{title}\n{len(figures.records)} instructions, completion {figures['completion']:.1%}, "
        f"miss ratio {figures['miss_ratio']:.1%}",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    figure.savefig(path, dpi=110)


def _draw_run(axes: Axes, figures: Figures) -> None:
    """One mark per instruction: released when, ended after what share of its budget."""
    size = max(_SMALLEST, min(_LARGEST, 100.0 / math.sqrt(len(figures.records))))
    start = min(record.released for record in figures.records)
    for ending in Ending:
        ended = [record for record in figures.records if record.ending is ending]
        if not ended:
            continue
        shares = [r.timing.total / r.budget if r.budget > 0.0 else _MOST_BUDGETS for r in ended]
        marker, color = look_of(ending)
        axes.plot(
            [record.released - start for record in ended],
            np.clip(shares, 0.0, _MOST_BUDGETS),
            ls="",
            marker=marker,
            color=color,
            mec="white",
            mew=0.4 if size > _SMALLEST else 0.0,
            ms=size,
            label=f"{ending} ({len(ended)})",
            clip_on=False,
            zorder=3,
        )
    axes.axhline(1.0, color=_DEADLINE, lw=1.6, label="deadline")
    axes.set_ylim(0.0, _MOST_BUDGETS)
    axes.set_xlabel("released after [s]")
    axes.set_ylabel("ended after [budgets]")
    axes.set_title("When each instruction ended, on the scale of its own budget", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _bare(axes)


def _draw_quantiles(axes: Axes, figures: Figures, name: str, label: str) -> None:
    """The share of answers up to each value, with the quantiles that are read most."""
    series = SERIES[name]
    values = np.sort([series.value(r) for r in figures.records if series.has(r)])
    axes.set_title(f"{name.capitalize()} of {len(values)} answers", loc="left")
    axes.set_xlabel(label)
    axes.set_ylabel("share of answers")
    axes.set_ylim(0.0, 1.0)
    _bare(axes)
    if not len(values):
        axes.text(0.5, 0.5, "nothing was answered", transform=axes.transAxes, ha="center")
        return
    axes.ecdf(values, color=_CURVE, lw=1.8)
    _mark(axes, figures, name, _QUANTILES[name])


def _mark(axes: Axes, figures: Figures, name: str, quantiles: Sequence[str]) -> None:
    """Dots on the curve, and their values in the corner that a rising curve leaves free."""
    found = {quantile: figures[f"{name}_{quantile}"] for quantile in quantiles}
    shares = [float(quantile[1:]) / 100.0 for quantile in quantiles]
    axes.plot(list(found.values()), shares, "o", color=_CURVE, ms=5, clip_on=False, zorder=4)
    axes.text(
        0.98,
        0.05,
        "\n".join(f"{quantile} {value:9.3f} s" for quantile, value in found.items()),
        transform=axes.transAxes,
        family="monospace",
        ha="right",
        va="bottom",
    )


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", zorder=0)
    axes.set_axisbelow(True)
