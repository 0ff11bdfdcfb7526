# SPDX-License-Identifier: Apache-2.0
"""Expectations of a replay's figures, as a pipeline writes them: completion>=0.95."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from timebill_ros.replay.figures import Figures

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
