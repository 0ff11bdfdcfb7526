# SPDX-License-Identifier: Apache-2.0
"""Instants: whole nanoseconds of one named clock."""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """A source of instants that are comparable with each other and with nothing else."""

    def now_ns(self) -> int:
        """The present instant, ns."""


class MonotonicClock:
    """The machine's monotonic clock: never set back, not comparable between machines."""

    def now_ns(self) -> int:
        """The present instant, ns since an arbitrary start."""
        return time.monotonic_ns()


def seconds(duration_ns: int) -> float:
    """A difference of two instants, in seconds."""
    return duration_ns / NS_PER_S
