# SPDX-License-Identifier: Apache-2.0
"""The picture of coverage in streams whose workload changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

RISKS = (0.01, 0.05, 0.1, 0.2)

# Requests over which coverage is averaged, beside all streams.
MOVING = 50

_FIXED, _ADAPTED = "#d55e00", "#0072b2"


def draw_streams(
    path: Path, fixed: NDArray[np.bool_], adapted: NDArray[np.bool_], *, change: int
) -> None:
    """Write a PNG with one plot per risk; arrays are [risks, streams, requests]."""
    figure = Figure(figsize=(13.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, len(RISKS))
    for row, (axes, risk) in enumerate(zip(plots, RISKS, strict=True)):
        for covered, color, label in (
            (fixed[row], _FIXED, "calibration alone"),
            (adapted[row], _ADAPTED, "with the last 200 responses"),
        ):
            shares = np.convolve(covered.mean(axis=0), np.ones(MOVING) / MOVING, "valid")
            requests = np.arange(MOVING, covered.shape[1] + 1) - change
            axes.plot(requests, shares, color=color, lw=1.4, label=label)
        axes.axhline(1.0 - risk, color="black", lw=0.9, ls="--", label="1 - risk")
        axes.axvspan(0, 200, color="#eeeeee", zorder=0)
        axes.set_title(f"risk {risk:g}", fontsize=11, loc="left")
        axes.set_xlabel("requests since the workload changed")
        axes.spines[["top", "right"]].set_visible(False)
    plots[0].set_ylabel(f"share of N <= N_W\n(mean of {MOVING} requests, {fixed.shape[1]} streams)")
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
