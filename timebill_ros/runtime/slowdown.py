# SPDX-License-Identifier: Apache-2.0
"""Corrects a profile that was taken on a busy machine by the times of requests."""

from __future__ import annotations

import math
import threading

from timebill_ros.budget.time_model import TimeModel

# How much of a new request's deviation counts: the older ones are forgotten by a fifth each time.
_WEIGHT = 0.2
# A profile is not further off than this; beyond, something else delayed the request.
_MOST = 20.0


class Slowdown:
    """By which factors requests take longer, now, than was profiled; prefill and decoding apart.

    Each request moves its factor a part of the way, in proportion: factor *= (measured /
    expected)^0.2. Twenty requests therefore undo 99 % of a wrong profile, and one that was
    disturbed moves little.

    May be used from any thread.
    """

    def __init__(self) -> None:
        """Nothing was seen yet: the profile holds."""
        self._lock = threading.Lock()
        self._prefill = 1.0
        self._decoding = 1.0

    def corrected(self, profiled: TimeModel) -> TimeModel:
        """The time model as requests have shown it."""
        with self._lock:
            return profiled.slowed(self._prefill, self._decoding)

    def observe_prefill(self, measured: float, expected: float) -> None:
        """Take in that a prefill took ``measured`` s, where the corrected model said otherwise."""
        with self._lock:
            self._prefill = _moved(self._prefill, measured, expected)

    def observe_decoding(self, measured: float, expected: float) -> None:
        """The same for eviction and decoding."""
        with self._lock:
            self._decoding = _moved(self._decoding, measured, expected)


def _moved(factor: float, measured: float, expected: float) -> float:
    """The factor after one more request; as it was where there was no work to measure."""
    if measured <= 0.0 or expected <= 0.0:
        return factor
    moved = factor * math.pow(measured / expected, _WEIGHT)
    return min(_MOST, max(1.0 / _MOST, moved))
