# SPDX-License-Identifier: Apache-2.0
"""What a replay's records add up to, and what a pipeline expects of it: completion>=0.95."""

from __future__ import annotations

import csv
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timebill_ros.client.record import Ending, Record

_ANSWERED = (Ending.IN_TIME, Ending.LATE)


@dataclass(frozen=True)
class _Series:
    """One number per instruction that has it."""

    unit: str
    value: Callable[[Record], float]
    has: Callable[[Record], bool]


# What has quantiles. Latency and slack are those of answers: what was never answered has none.
SERIES = {
    "latency": _Series("s", lambda r: r.timing.total, lambda r: r.ending in _ANSWERED),
    "slack": _Series("s", lambda r: r.timing.slack, lambda r: r.ending in _ANSWERED),
    "queued": _Series("s", lambda r: r.timing.queued, lambda r: r.plan is not None),
    "rho": _Series("", lambda r: r.plan.rho if r.plan else 1.0, lambda r: r.plan is not None),
    "alpha": _Series("", lambda r: r.plan.alpha if r.plan else 0.0, lambda r: r.plan is not None),
    "response_tokens": _Series("", lambda r: r.response_tokens, lambda r: r.ending in _ANSWERED),
}
_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: float(np.mean(values)),
    "min": min,
    "max": max,
}
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")
_SHOWN = ("p01", "p50", "p90", "p99", "mean")


@dataclass(frozen=True)
class Figures:
    """The ended instructions of a replay, and every figure that can be asked of them."""

    records: Sequence[Record]

    @property
    def counts(self) -> Counter[Ending]:
        """Instructions by how they ended."""
        return Counter(record.ending for record in self.records)

    def __getitem__(self, name: str) -> float:
        """A figure by its name; NaN where nothing has it, the latency of no answer for instance.

        Raises:
            KeyError: no figure of that name; the message lists what there is.
        """
        total = len(self.records)
        ratios = {
            "instructions": total,
            "completion": self._share(lambda ending: ending is Ending.IN_TIME),
            "miss_ratio": self._share(lambda ending: ending.missed),
            **{ending.name.lower(): self.counts[ending] for ending in Ending},
            "truncated": sum(record.truncated for record in self.records),
        }
        if name in ratios:
            return float(ratios[name])
        series, _, statistic = name.rpartition("_")
        if series in SERIES:
            what = SERIES[series]
            values = [what.value(r) for r in self.records if what.has(r)]
            if statistic in _STATISTICS:
                return _STATISTICS[statistic](values) if values else math.nan
            if quantile := _QUANTILE.fullmatch(statistic):
                return _quantile(values, float(quantile[1]) / 100.0)
        raise KeyError(
            f"{name}: there are {', '.join(ratios)}, and for each of {', '.join(SERIES)} its "
            "_pNN (p50, p99.9), _mean, _min, _max"
        )

    def table(self) -> str:
        """The counts and the quantiles, for people."""
        total = len(self.records)
        lines = [f"{total} instructions"]
        lines += [
            f"  {ending:<14}{self.counts[ending]:>7}{self.counts[ending] / total:>9.1%}"
            for ending in Ending
            if self.counts[ending]
        ]
        if truncated := self["truncated"]:
            lines.append(f"  of them cut short {truncated:.0f}")
        lines += [
            f"completion {self['completion']:.4f}, miss ratio {self['miss_ratio']:.4f}",
            f"{'':18}" + "".join(f"{name:>10}" for name in _SHOWN),
        ]
        for name, series in SERIES.items():
            title = f"{name} [{series.unit}]" if series.unit else name
            cells = [self[f"{name}_{shown}"] for shown in _SHOWN]
            lines.append(f"{title:<18}" + "".join(_cell(value) for value in cells))
        return "\n".join(lines)

    def write_csv(self, path: Path) -> None:
        """Write every figure that the table shows as a row of name and value."""
        names = ["instructions", "completion", "miss_ratio"]
        names += [*(ending.name.lower() for ending in Ending), "truncated"]
        names += [f"{series}_{shown}" for series in SERIES for shown in _SHOWN]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["figure", "value"])
            writer.writerows([name, f"{self[name]:.9g}"] for name in names)

    def _share(self, counts: Callable[[Ending], bool]) -> float:
        return sum(counts(record.ending) for record in self.records) / max(1, len(self.records))


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed: one that occurred."""
    return float(np.quantile(values, share, method="inverted_cdf")) if values else math.nan


def _cell(value: float) -> str:
    if math.isnan(value):
        return f"{'-':>10}"
    return f"{value:>10.0f}" if abs(value) >= 1000.0 else f"{value:>10.3f}"


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([a-z_]+[a-z0-9_.]*)\s*(>=|<=|==|>|<)\s*([^\s<>=]\S*)\s*")


@dataclass(frozen=True)
class Expectation:
    """That a figure compares so with a bound.

    Attributes:
        figure: a name that ``Figures`` knows.
    """

    figure: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """From FIGURE, one of >= <= == > <, and a number; s, ratios or counts.

        Raises:
            ValueError: what is wrong with the text.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(
                f"{text!r} is no expectation like completion>=0.95: a figure, one of "
                f"{' '.join(_COMPARISONS)}, a number"
            )
        figure, comparison, number = form.groups()
        try:
            bound = float(number)
        except ValueError:
            raise ValueError(f"{text!r}: {number!r} is no number") from None
        if not math.isfinite(bound):
            raise ValueError(f"{text!r}: {number} is not finite")
        try:
            Figures([])[figure]
        except KeyError as unknown:
            raise ValueError(f"{text!r}: no figure {unknown.args[0]}") from None
        return cls(figure, comparison, bound)

    def failure(self, figures: Figures) -> str | None:
        """What was found instead; None where it holds. A figure that nothing has fails."""
        found = figures[self.figure]
        if _COMPARISONS[self.comparison](found, self.bound):
            return None
        told = "nothing has it" if math.isnan(found) else f"it is {found:.6g}"
        return f"expected {self.figure} {self.comparison} {self.bound:g}: {told}"
