# SPDX-License-Identifier: Apache-2.0
"""The picture of a run: where each instruction's time went, and its deadline.

Two views side by side of the same rows. Left, the run on its own time axis: who waited for whom.
Right, each instruction on the scale of its own budget, so that the short ones can be read as well
and every deadline is the same line. Colours are Okabe and Ito's, which colour-blind readers can
tell apart; hatches and symbols say the same once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from timebill_ros.client.record import Ending, Record
from timebill_ros.runtime.harmless import harmless_line


@dataclass(frozen=True)
class _Look:
    """How a stage is drawn."""

    label: str
    color: str
    hatch: str = ""


_STAGES = {
    "queued": _Look("queued", "#d9d9d9"),
    "prefill": _Look("prefill", "#0072b2"),
    "predict": _Look("length predictor (beside prefill)", "#f0e442", "////"),
    "evict": _Look("evict", "#d55e00"),
    "decode": _Look("decode", "#56b4e9", "...."),
}
_DEADLINE = "#000000"
# Marker and colour by ending; what the node was not to blame for shares one.
_ENDINGS = {
    Ending.IN_TIME: ("o", "#009e73"),
    Ending.LATE: (">", "#e69f00"),
    Ending.KILLED: ("X", "#cc2f27"),
    Ending.EXPIRED: ("D", "#cc79a7"),
    Ending.SKIPPED: ("s", "#cc79a7"),
}
_OTHER_ENDING = ("P", "#000000")

_ROW_INCHES = 0.36
_BAR, _THIN_BAR = 0.62, 0.22
# The budget axis ends here; a bar that is longer is cut and says so, budgets.
_MOST_BUDGETS = 1.5
# Where the columns of text right of the budget axis stand, in widths of that axis.
_COLUMNS = {"rho": 1.03, "alpha": 1.11, "tokens": 1.21, "outcome": 1.41}
_ID_WIDTH = 40  # characters
_LABELS = "{id:<5}{prompt:>6}{budget:>8}"


@dataclass(frozen=True)
class _Bar:
    """One stage of one instruction, s from its release."""

    stage: str
    start: float
    length: float


def look_of(ending: Ending) -> tuple[str, str]:
    """Marker and colour by which an ending is known in every picture."""
    return _ENDINGS.get(ending, _OTHER_ENDING)


def draw_run(path: Path, records: Sequence[Record], title: str) -> None:
    """Write the picture of ``records``, in this order from top to bottom, as PNG."""
    figure = Figure(figsize=(15.0, 2.1 + _ROW_INCHES * len(records)), layout="constrained")
    FigureCanvasAgg(figure)
    run, budgets = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": [1.15, 1.0], "wspace": 0.02}
    )
    start = min(record.released for record in records)
    for row, record in enumerate(records):
        _draw_on_run(run, row, record, record.released - start)
        _draw_on_budget(budgets, row, record)
        _describe(budgets, row, record)
    _dress_run(run, records)
    _dress_budgets(budgets)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.legend(
        handles=_legend(records), loc="outside lower center", ncols=11, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=110)


def _bars(record: Record) -> list[_Bar]:
    """The stages one after the other, decoding up to the end; the predictor beside prefill.

    Between prefill and eviction lies what the plan waited for, drawn as a gap.
    """
    timing = record.timing
    decode = timing.total - timing.decode
    bars = [
        _Bar("queued", 0.0, timing.queued),
        _Bar("prefill", timing.queued, timing.prefill),
        _Bar("evict", decode - timing.evict, timing.evict),
        _Bar("decode", decode, timing.decode),
        _Bar("predict", timing.queued, timing.predict),
    ]
    return [bar for bar in bars if bar.length > 0.0]


def _draw_bars(axes: Axes, row: int, record: Record, *, offset: float, scale: float) -> None:
    for bar in _bars(record):
        look = _STAGES[bar.stage]
        beside = bar.stage == "predict"
        axes.barh(
            row + (_BAR - _THIN_BAR) / 2 if beside else row,
            bar.length * scale,
            left=offset + bar.start * scale,
            height=_THIN_BAR if beside else _BAR,
            color=look.color,
            hatch=look.hatch,
            edgecolor="#00000055" if look.hatch else look.color,
            linewidth=0.4,
            zorder=3 if beside else 2,
        )


def _draw_end(axes: Axes, row: int, at: float, ending: Ending) -> None:
    marker, color = look_of(ending)
    axes.plot(at, row, marker, color=color, ms=8, mec="white", mew=0.9, zorder=5, clip_on=False)


def _draw_on_run(axes: Axes, row: int, record: Record, released: float) -> None:
    _draw_bars(axes, row, record, offset=released, scale=1.0)
    deadline = released + record.budget
    axes.plot([released, deadline], [row, row], color=_DEADLINE, lw=0.6, ls=":", zorder=1)
    axes.plot([deadline, deadline], [row - 0.42, row + 0.42], color=_DEADLINE, lw=1.6, zorder=4)
    _draw_end(axes, row, released + record.timing.total, record.ending)


def _draw_on_budget(axes: Axes, row: int, record: Record) -> None:
    scale = 1.0 / record.budget
    _draw_bars(axes, row, record, offset=0.0, scale=scale)
    end = record.timing.total * scale
    _draw_end(axes, row, min(end, _MOST_BUDGETS), record.ending)
    if end > _MOST_BUDGETS:
        axes.text(
            0.97 * _MOST_BUDGETS,
            row,
            f"to {end:.1f} budgets",
            ha="right",
            va="center",
            fontsize=8,
            zorder=6,
            bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "pad": 0.2},
        )


def _describe(axes: Axes, row: int, record: Record) -> None:
    """The row's result, right of the axes: rho, alpha, predicted and actual length, ending."""
    plan = record.plan
    rho, alpha = (f"{plan.rho:.2f}", f"{plan.alpha:.2f}") if plan else ("-", "-")
    predicted = str(plan.predicted_tokens) if plan and plan.predicted_tokens else "-"
    texts = {
        "rho": rho,
        "alpha": alpha,
        "tokens": f"{predicted} / {record.response_tokens or '-'}",
        "outcome": record.outcome,
    }
    place = axes.get_yaxis_transform()
    pulled = {"rho": plan.rho < 1.0, "alpha": plan.alpha > 0.0} if plan else {}
    for column, text in texts.items():
        bold = pulled.get(column, False)
        axes.text(
            _COLUMNS[column],
            row,
            text,
            transform=place,
            va="center",
            ha="left",
            fontsize=9,
            fontweight="bold" if bold else "normal",
        )
    marker, color = look_of(record.ending)
    at = _COLUMNS["outcome"] - 0.03
    axes.plot(at, row, marker, color=color, ms=7, transform=place, clip_on=False)


def _dress_run(axes: Axes, records: Sequence[Record]) -> None:
    labels = [
        _LABELS.format(
            id=harmless_line(r.id, _ID_WIDTH),
            prompt=f"{r.prompt_tokens:,}",
            budget=f"{r.budget:.2f}",
        )
        for r in records
    ]
    # An id is no formula, which a dollar sign would begin.
    axes.set_yticks(range(len(records)), labels, fontsize=9, family="monospace", parse_math=False)
    axes.text(
        -0.012,
        1.012,
        _LABELS.format(id="id", prompt="prompt", budget="budget")
        + "\n"
        + _LABELS.format(id="", prompt="tokens", budget="s"),
        transform=axes.transAxes,
        fontsize=9,
        family="monospace",
        ha="right",
        va="bottom",
    )
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("time of the run [s]")
    axes.set_title("When it ran", fontsize=11, loc="left")
    axes.tick_params(left=False)
    _bare(axes)


def _dress_budgets(axes: Axes) -> None:
    axes.axvline(1.0, color=_DEADLINE, lw=1.6, zorder=4)
    axes.set_xlim(0.0, _MOST_BUDGETS)
    axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
    axes.set_xlabel("share of the instruction's own budget")
    axes.set_title("How its budget was spent", fontsize=11, loc="left")
    axes.tick_params(left=False, labelleft=False)
    for column, title in {
        "rho": "rho",
        "alpha": "alpha",
        "tokens": "tokens:\npred. / actual",
        "outcome": "outcome",
    }.items():
        axes.text(_COLUMNS[column], 1.012, title, transform=axes.transAxes, fontsize=9, va="bottom")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", zorder=0)
    axes.set_axisbelow(True)


def _legend(records: Sequence[Record]) -> list[Patch | Line2D]:
    drawn = {bar.stage for record in records for bar in _bars(record)}
    stages = [
        Patch(facecolor=look.color, hatch=look.hatch, edgecolor="#00000055", label=look.label)
        for stage, look in _STAGES.items()
        if stage in drawn
    ]
    deadline = Line2D([], [], color=_DEADLINE, lw=1.6, label="deadline")
    endings = []
    for ending in Ending:
        if any(record.ending is ending for record in records):
            marker, color = look_of(ending)
            endings.append(
                Line2D([], [], ls="", marker=marker, color=color, ms=8, label=ending.value)
            )
    return [*stages, deadline, *endings]
