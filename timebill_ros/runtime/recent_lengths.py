# SPDX-License-Identifier: Apache-2.0
"""How long recent responses were: what is known of the next one where nothing predicts it."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from timebill_ros.budget.length import LengthDistribution

_WINDOW = 200
_BUCKETS = 50


class RecentLengths:
    """The lengths of the latest responses, as a distribution. May be used from any thread."""

    def __init__(self, window: int = _WINDOW) -> None:
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
