# SPDX-License-Identifier: Apache-2.0
"""How fast the machine is at present, as the latest requests show, against the time model."""

from __future__ import annotations

import math
import threading
from collections import deque

from timebill_ros.budget.pace import Pace, lateness, pace_for
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import Engine
from timebill_ros.runtime.clock import Clock, seconds

# Latest requests, or decoding steps, that count.
WINDOW = 100

# The next step may take longer than foreseen with this probability. A smaller one would let a
# single slow step shorten the next hundred answers.
_STEP_RISK = 0.05

# Of the prefills that are held to be hopeless, one in so many is run all the same: otherwise a
# machine that has become faster would never be found out.
_PROBE = 20

# Held-out prefills are faster than this many mean errors of the time model say once in a hundred
# times, if the errors are normal.
_ERRORS = 3.0


class PaceTracker:
    """The times of the latest requests, against the time model.

    Eviction and decoding of whole requests tell what the next worst case must count with. Single
    steps tell how long the next one takes. Prefills tell how long the next one takes at least.

    The window of requests begins half full of requests that took what was profiled, so that a
    single slow one at the start does not decide about those that follow.

    May be used from any thread.
    """

    def __init__(self, *, prefill_error: float = 0.0) -> None:
        """Nothing was seen yet: the time model holds.

        Args:
            prefill_error: mean error of the profile's prefill times, as a share of them.
        """
        self._lock = threading.Lock()
        self._seen: deque[float] = deque([0.0] * (WINDOW // 2), maxlen=WINDOW)
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._prefills: deque[float] = deque([1.0 - _ERRORS * prefill_error], maxlen=WINDOW)
        self._hopeless = 0

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

    def step(self, profiled: float) -> float:
        """Seconds that the next decoding step may take; as profiled where none was measured.

        Of n steps that were measured, the next one takes each of n + 1 ranks with the same
        probability; so the step of rank ceil(0.95 (n + 1)) is exceeded once in twenty times. With
        fewer than nineteen it is the slowest.
        """
        with self._lock:
            ratios = sorted(self._steps)
        if not ratios:
            return profiled
        rank = math.ceil((1.0 - _STEP_RISK) * (len(ratios) + 1))
        return profiled * ratios[min(rank, len(ratios)) - 1]

    def observe_step(self, measured: float, profiled: float) -> None:
        """Take in that one decoding step took ``measured`` s."""
        if profiled > 0.0:
            with self._lock:
                self._steps.append(measured / profiled)

    def prefill_fits(self, profiled: float, remaining: float) -> bool:
        """Whether a prefill can end within ``remaining`` s, if it is as fast as the fastest seen.

        Never expects more than was profiled. Now and then it says yes against its expectation, to
        learn whether the machine has become faster.
        """
        with self._lock:
            if profiled * min(1.0, *self._prefills) <= remaining:
                return True
            self._hopeless = (self._hopeless + 1) % _PROBE
            return self._hopeless == 0

    def observe_prefill(self, measured: float, profiled: float) -> None:
        """Take in that a whole prefill took ``measured`` s."""
        if profiled > 0.0:
            with self._lock:
                self._prefills.append(measured / profiled)


class StepTimer:
    """Times one response's decoding steps for those to come, from token to token.

    An engine that waits for another process comes back without a token now and then.
    """

    def __init__(self, pace: PaceTracker, stopwatch: Clock) -> None:
        """Tell ``pace`` what ``stopwatch`` measures."""
        self._pace = pace
        self._stopwatch = stopwatch
        self._began_ns: int | None = None

    def step(self, engine: Engine, profiled: float) -> None:
        """One step, of which the profile says ``profiled`` s."""
        before = engine.response_tokens
        if self._began_ns is None:
            self._began_ns = self._stopwatch.now_ns()
        engine.step()
        if (grown := engine.response_tokens - before) > 0:
            took = seconds(self._stopwatch.now_ns() - self._began_ns)
            self._pace.observe_step(took / grown, profiled)
            self._began_ns = None


# How much of a new request's deviation counts: the older ones are forgotten by a fifth each time.
_WEIGHT = 0.2
# A profile is not further off than this; beyond, something else delayed the request.
_MOST = 20.0


class Slowdown:
    """How many times longer than profiled prefill and decoding take now.

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
