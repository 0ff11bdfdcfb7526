# SPDX-License-Identifier: Apache-2.0
"""Keeps worst cases true while the machine's speed changes."""

from __future__ import annotations

import threading
from collections import deque

from timebill_ros.budget.pace import Pace, lateness, pace_for

# Latest requests that count.
WINDOW = 100


class PaceTracker:
    """How late the latest requests were, against the time model.

    It begins with half a window of requests that took what was profiled, so that a single slow one
    at the start does not decide about those that follow.

    May be used from any thread.
    """

    def __init__(self) -> None:
        """Nothing was seen yet: the time model holds."""
        self._lock = threading.Lock()
        self._seen: deque[float] = deque([0.0] * (WINDOW // 2), maxlen=WINDOW)

    def pace(self, risk: float) -> Pace:
        """What the next request must count with, see ``pace_for``."""
        with self._lock:
            return pace_for(risk, self._seen)

    def observe(self, measured: float, profiled: float) -> None:
        """Take in that work took ``measured`` s; none is expected of no work."""
        if profiled <= 0.0:
            return
        with self._lock:
            self._seen.append(lateness(measured, profiled))
