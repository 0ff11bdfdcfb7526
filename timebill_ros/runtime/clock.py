# SPDX-License-Identifier: Apache-2.0
"""Instants: whole nanoseconds of one named clock."""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Protocol

NS_PER_S = 1_000_000_000

# The rate is the median over the latest stretches: about a second of real time, and enough of them
# for one message that came late, which spoils two in opposite directions, not to decide it.
_STRETCH_NS = 50_000_000
_WINDOW_NS = NS_PER_S
_FEWEST_STRETCHES = 3


class Clock(Protocol):
    """A source of instants that are comparable with each other and with nothing else.

    Attributes:
        rate: its seconds per second of execution, above 0: what a duration of this clock is
            divided by to compare it with the time that work takes. A clock that is paused has the
            rate that it will go on with.
    """

    @property
    def rate(self) -> float:
        """See the class."""

    def now_ns(self) -> int:
        """The present instant, ns."""


class MonotonicClock:
    """The machine's monotonic clock: never set back, not comparable between machines."""

    rate = 1.0

    def now_ns(self) -> int:
        """The present instant, ns since an arbitrary start."""
        return time.monotonic_ns()


class ClockRate:
    """How fast a clock runs, from samples of it: the median over its latest stretches.

    A median, because a pause, a seek or a message that came late spoils single stretches and not
    the most of them. Stretches in which the clock stood still are not counted: work that is
    planned during a pause must be done at the rate that follows it.

    Attributes:
        value: clock seconds per real second; 1 until a few stretches are known.
    """

    def __init__(self) -> None:
        """Nothing sampled yet."""
        self.value = 1.0
        self._last: tuple[int, int] | None = None
        self._stretches: deque[tuple[int, int]] = deque()  # (clock, real), ns each

    def sample(self, clock_ns: int, real_ns: int) -> None:
        """The clock showed ``clock_ns`` at ``real_ns`` of the monotonic clock."""
        if self._last is None or clock_ns < self._last[0]:
            self._last = (clock_ns, real_ns)
            return
        passed_ns, real_passed_ns = clock_ns - self._last[0], real_ns - self._last[1]
        if real_passed_ns < _STRETCH_NS:
            return
        self._last = (clock_ns, real_ns)
        if passed_ns > 0:
            self._add(passed_ns, real_passed_ns)

    def _add(self, passed_ns: int, real_passed_ns: int) -> None:
        known = self._stretches
        known.append((passed_ns, real_passed_ns))
        while len(known) > _FEWEST_STRETCHES and sum(real for _, real in known) > _WINDOW_NS:
            known.popleft()
        if len(known) >= _FEWEST_STRETCHES:
            self.value = median(clock / real for clock, real in known)


def seconds(duration_ns: int) -> float:
    """A difference of two instants, in seconds."""
    return duration_ns / NS_PER_S
