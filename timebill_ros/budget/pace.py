# SPDX-License-Identifier: Apache-2.0
"""How much slower than profiled recent requests were: conformal ranks of their lateness.

The time model is fitted to medians, so half of all requests are slower than it says, and on a
machine whose cores are shared, more: it drifts between profile and request. A plan that is to hold
for the share 1 - epsilon of requests must count with the slow ones. Of n exchangeable scores, a new
one takes each of n + 1 ranks with the same probability; so the score of rank
ceil((1 - epsilon)(n + 1)), counted from below, is exceeded with at most epsilon.

The score of a request is its lateness in proportion to the work, plus a constant: what delays it
grows with the work (a slower clock, a neighbour in the cache), but not below one slice of the
scheduler, which a request of a few tokens may lose as well as one of hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What a request may lose however little work it is, s: with 1 ms answers of a few tokens were too
# late too often, with 10 ms long ones.
_SLICE = 0.005


def lateness(measured: float, profiled: float) -> float:
    """The score of work that took ``measured`` s where the time model said ``profiled`` s."""
    return (measured - profiled) / (profiled + _SLICE)


@dataclass(frozen=True)
class Pace:
    """How late work is taken to be in the worst case, as a score of ``lateness``."""

    margin: float

    def worst(self, profiled: float) -> float:
        """Seconds that ``profiled`` s of work may take; no work takes none."""
        return profiled + self.margin * (profiled + _SLICE) if profiled > 0.0 else 0.0

    def profiled_within(self, seconds: float) -> float:
        """Most seconds of work, as profiled, that end within ``seconds``; may be negative."""
        return (seconds - self.margin * _SLICE) / (1.0 + self.margin)


AS_PROFILED = Pace(0.0)


def pace_for(risk: float, seen: Sequence[float]) -> Pace:
    """The pace that at most the share ``risk`` of requests like those ``seen`` falls short of.

    Never below 0, for a plan promises no more than was profiled. Too few scores for so rare a risk
    give the largest of them. A risk of 0 stands for the time model as it is.
    """
    if risk <= 0.0 or not seen:
        return AS_PROFILED
    rank = math.ceil((1.0 - risk) * (len(seen) + 1) * (1.0 - _ROUNDING))
    return Pace(max(0.0, sorted(seen)[min(rank, len(seen)) - 1]))


# So that a risk of 1/20 is met by rank 19 of 19, not by none.
_ROUNDING = 1e-9
