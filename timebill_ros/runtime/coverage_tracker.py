# SPDX-License-Identifier: Apache-2.0
"""Keeps the calibration of predicted lengths true while the workload changes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from timebill_ros.budget.calibration import Calibration, place
from timebill_ros.budget.coverage import Seen, observed_coverage
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.risk import MOST, LengthRisk

# Latest responses that count: the calibration is that of a changed workload after as many.
WINDOW = 200


class CoverageTracker:
    """The scores of the latest responses, from which every prediction's risk is read.

    A window of ranks rather than one adapted quantile (Gibbs, Candes: *Adaptive conformal
    inference under distribution shift*, NeurIPS 2021): it serves any risk, whichever is set when,
    and tells the risk of a length that was planned otherwise. It begins with the evenly spread
    scores that a calibrated predictor would have, and empty without a calibration: then every plan
    is for N_max until enough responses have shown what the probabilities are worth.

    Responses for which most of the prompt's cache was evicted have a window of their own. Those
    that ended by themselves count among the others as well: were every plan for N_max, and evicted
    most, the others would never be heard of again.

    May be used from any thread.
    """

    def __init__(self, calibration: Calibration | None = None, *, window: int = WINDOW) -> None:
        """Nothing was seen yet but, where there is one, the calibration's pairs."""
        self._calibration = calibration
        self._lock = threading.Lock()
        self._requests = 0
        # No more than there were pairs: what is rarer than one of them is not known.
        first = evenly_spread(min(window, calibration.pairs)) if calibration else []
        seen = [Seen(stated, complete=True) for stated in first]
        self._kept = _Window(seen, window)
        self._evicted = _Window(seen, window)

    def assess(self, lengths: LengthDistribution) -> LengthRisk:
        """The prediction of the next request in the light of what was seen."""
        with self._lock:
            self._requests += 1
            return LengthRisk(
                lengths,
                place(self._requests),
                self._calibration,
                self._kept.coverage,
                self._evicted.coverage,
            )

    def observe(
        self, known: LengthRisk, response_tokens: int, *, complete: bool, alpha: float = 0.0
    ) -> None:
        """Take in how long an assessed response became after evicting at ``alpha``.

        One that was cut off counts as longer.
        """
        if response_tokens < 1:
            return
        seen = known.seen(response_tokens, complete=complete)
        with self._lock:
            if alpha > MOST:
                self._evicted.add(seen)
            if alpha <= MOST or complete:
                self._kept.add(seen)


class _Window:
    """The latest responses of one kind, and what they say."""

    def __init__(self, first: Iterable[Seen], window: int) -> None:
        self._seen = deque(first, maxlen=window)
        self.coverage = observed_coverage(self._seen)

    def add(self, seen: Seen) -> None:
        self._seen.append(seen)
        self.coverage = observed_coverage(self._seen)


def evenly_spread(count: int) -> list[float]:
    """i / (count + 1) for i = 1..count, so ordered that any run of them is evenly spread too."""
    ranks = np.argsort(np.argsort([place(number) for number in range(count)])) + 1
    return [float(stated) for stated in ranks / (count + 1.0)]
