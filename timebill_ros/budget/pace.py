# SPDX-License-Identifier: Apache-2.0
"""How much slower than profiled the next request may be, as the latest ones were.

The time model is fitted to medians. So half of all requests are slower than it says, and more than
half on a machine that was quieter when it was profiled. A plan that must hold with the probability
1 - epsilon has to expect what a slow request takes.

How slow that is, the latest requests tell by their ranks. Each has a score, its lateness. Among n
scores and a new one, the new one has each of the n + 1 ranks with the same probability. So it is
above the score of rank ceil((1 - epsilon)(n + 1)), counted from below, with at most the probability
epsilon.

Lateness is measured in proportion to the work plus a constant. Most delays grow with the work: a
slower clock, a neighbour that takes the cache. But a request of a few tokens may lose a slice of
the scheduler just as one of hundreds may; the constant stands for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# What a request may lose however little work it is, s. With 1 ms, short answers were late too
# often; with 10 ms, long ones were.
_SLICE = 0.005


def lateness(measured: float, profiled: float) -> float:
    """The score of work that took ``measured`` s where the time model said ``profiled`` s."""
    return (measured - profiled) / (profiled + _SLICE)


@dataclass(frozen=True)
class Pace:
    """How slow the machine is expected to be in the worst case.

    Attributes:
        margin: a score of ``lateness``; 0 for a machine as profiled.
    """

    margin: float

    def worst(self, profiled: float) -> float:
        """Seconds that work may take for which the profile says ``profiled`` s; 0 for no work."""
        return profiled + self.margin * (profiled + _SLICE) if profiled > 0.0 else 0.0

    def profiled_within(self, seconds: float) -> float:
        """The most work, in seconds as profiled, that ends within ``seconds``; may be negative."""
        return (seconds - self.margin * _SLICE) / (1.0 + self.margin)


AS_PROFILED = Pace(0.0)


def pace_for(risk: float, seen: Sequence[float]) -> Pace:
    """The pace that the next request is slower than with at most the probability ``risk``.

    Args:
        risk: accepted probability; 0 stands for the time model as it is.
        seen: lateness of the latest requests. Where they are too few for so small a risk, the
            largest of them counts.

    Returns:
        A pace that is never faster than profiled.
    """
    if risk <= 0.0 or not seen:
        return AS_PROFILED
    rank = math.ceil((1.0 - risk) * (len(seen) + 1) * (1.0 - _ROUNDING))
    return Pace(max(0.0, sorted(seen)[min(rank, len(seen)) - 1]))


# 19 scores have 20 ranks, so a risk of 1/20 is met by the largest of them, whatever the rounding.
_ROUNDING = 1e-9
