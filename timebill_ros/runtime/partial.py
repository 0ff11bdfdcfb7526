# SPDX-License-Identifier: Apache-2.0
"""A running job's response before it is complete, for whoever wants to watch it grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from timebill_ros.runtime.clock import NS_PER_S, Clock
from timebill_ros.runtime.job import Job


@dataclass(frozen=True)
class Partial:
    """How far a response has come.

    Attributes:
        text: all of it so far, whole characters only.
        response_tokens: tokens so far.
        alpha: share of the prompt's cache that was evicted.
        slack: deadline minus now, s on the deadlines' clock.
    """

    job: Job
    text: str
    response_tokens: int
    alpha: float
    slack: float


Observer = Callable[[Callable[[], Partial]], None]
"""Called between decoding steps, on the engine's thread; looks at the response if it wants to."""


class Periodically:
    """An observer that looks at the first token, and then at most every ``period`` s.

    Between two looks it costs one reading of the clock.
    """

    def __init__(self, show: Callable[[Partial], None], period: float, stopwatch: Clock) -> None:
        """Hand what it sees to ``show``."""
        self._show = show
        self._period_ns = round(period * NS_PER_S)
        self._stopwatch = stopwatch
        self._next_ns: int | None = None

    def __call__(self, look: Callable[[], Partial]) -> None:
        """Look and show, if it is time."""
        now_ns = self._stopwatch.now_ns()
        if self._next_ns is None or now_ns >= self._next_ns:
            self._next_ns = now_ns + self._period_ns
            self._show(look())
