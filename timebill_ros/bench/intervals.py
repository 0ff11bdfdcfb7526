# SPDX-License-Identifier: Apache-2.0
"""How far a figure of so many cases is to be trusted: its interval of 95 %."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percent
_Z = 1.96  # of the normal distribution


def interval_of_mean(each: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Of the mean over cases, by bootstrap: cases are drawn with replacement.

    Given the differences of two methods, case by case, it is a paired one: the same cases are drawn
    for both.
    """
    drawn = np.random.default_rng(seed).integers(each.size, size=(_RESAMPLES, each.size))
    low, high = np.percentile(each[drawn].mean(axis=1), _INTERVAL)
    return float(low), float(high)


def interval_of_share(count: int, of: int) -> tuple[float, float]:
    """Of a share, ``count`` of so many (Wilson, JASA 22, 1927)."""
    share, square = count / of, _Z * _Z / of
    middle = (share + square / 2.0) / (1.0 + square)
    half = _Z * math.sqrt(share * (1.0 - share) / of + square / (4.0 * of)) / (1.0 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
