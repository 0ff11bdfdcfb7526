# SPDX-License-Identifier: Apache-2.0
"""What the latest responses tell of lengths: how to correct predictions, what to do without one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from timebill_ros.budget.calibration import Calibration, pit_share
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.risk import HEAVY_EVICTION, LengthRisk, Observation, observed_coverage

# Latest responses that count. So many after a change of the workload, only the new one counts.
WINDOW = 200


class CoverageTracker:
    """Remembers the latest responses, and corrects every prediction by them.

    It keeps a window of scores. Gibbs and Candes (*Adaptive conformal inference under distribution
    shift*, NeurIPS 2021) adapt one quantile instead; but here the risk may be set anew at any time,
    and a plan that was made without one tells its risk too.

    The window begins with the scores that a calibrated predictor would have, evenly spread. Without
    a calibration it begins empty. Then every plan is made for N_max, until enough responses have
    shown what the probabilities are worth.

    Responses after a heavy eviction have a window of their own. Those of them that ended by
    themselves count in the other window as well. Otherwise that window could ask for N_max, all
    plans would evict heavily, and no response would ever tell it better.

    May be used from any thread.
    """

    def __init__(self, calibration: Calibration | None = None, *, window: int = WINDOW) -> None:
        """Begin with what the calibration says, if there is one."""
        self._calibration = calibration
        self._lock = threading.Lock()
        self._requests = 0
        # No more scores than there were pairs: a calibration knows no rarer miss than one of them.
        first = evenly_spread(min(window, calibration.pairs)) if calibration else []
        begin = [Observation(predicted, complete=True) for predicted in first]
        self._kept = _Window(begin, window)
        self._evicted = _Window(begin, window)

    def assess(self, lengths: LengthDistribution) -> LengthRisk:
        """The prediction of the next request, with what is known of such predictions."""
        with self._lock:
            self._requests += 1
            return LengthRisk(
                lengths,
                pit_share(self._requests),
                self._calibration,
                self._kept.coverage,
                self._evicted.coverage,
            )

    def observe(
        self, known: LengthRisk, response_tokens: int, *, complete: bool, alpha: float = 0.0
    ) -> None:
        """Take in one response.

        Args:
            known: what ``assess`` said of it.
            response_tokens: how long it became.
            complete: it ended by itself; otherwise it counts as longer.
            alpha: how much of the prompt's cache was evicted.
        """
        if response_tokens < 1:
            return
        observation = known.observation(response_tokens, complete=complete)
        with self._lock:
            if alpha > HEAVY_EVICTION:
                self._evicted.add(observation)
            if alpha <= HEAVY_EVICTION or complete:
                self._kept.add(observation)


class _Window:
    """The latest responses of one kind, and what they say."""

    def __init__(self, begin: Iterable[Observation], window: int) -> None:
        self._latest = deque(begin, maxlen=window)
        self.coverage = observed_coverage(self._latest)

    def add(self, observation: Observation) -> None:
        self._latest.append(observation)
        self.coverage = observed_coverage(self._latest)


def evenly_spread(count: int) -> list[float]:
    """i / (count + 1) for i = 1..count, so ordered that any run of them is evenly spread too."""
    ranks = np.argsort(np.argsort([pit_share(number) for number in range(count)])) + 1
    return [float(predicted) for predicted in ranks / (count + 1.0)]


_BUCKETS = 50


class RecentLengths:
    """The lengths of the latest responses, as a distribution. May be used from any thread."""

    def __init__(self, window: int = WINDOW) -> None:
        """Nothing was seen yet: every length is as likely as any other."""
        self._lock = threading.Lock()
        self._seen: deque[tuple[int, bool]] = deque(maxlen=window)

    def observe(self, response_tokens: int, *, complete: bool) -> None:
        """Take in a response; one that was cut off is longer, by nobody knows how much."""
        with self._lock:
            self._seen.append((response_tokens, complete))

    def distribution(self, max_tokens: int) -> LengthDistribution:
        """Lengths up to N_max, which counts as one response of any length beside those seen."""
        size = max(1, -(-max_tokens // _BUCKETS))
        buckets = -(-max_tokens // size)
        weights = np.full(buckets, 1.0 / buckets)
        with self._lock:
            seen = list(self._seen)
        for tokens, complete in seen:
            bucket = min(buckets, -(-tokens // size)) - 1
            if complete:
                weights[bucket] += 1.0
            else:
                weights[bucket:] += 1.0 / (buckets - bucket)
        return LengthDistribution(weights / weights.sum(), size)
