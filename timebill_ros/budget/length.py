# SPDX-License-Identifier: Apache-2.0
"""The response length as the predictor sees it: a distribution over buckets of B tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Tolerance on sum(probabilities) = 1: float32 softmax over a few hundred buckets.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class LengthDistribution:
    """P(bucket) over ``len(probabilities)`` buckets; bucket n covers ((n-1) B, n B] tokens.

    Buckets count from 1, as in the paper: the label of a response of N tokens is ceil(N / B).

    Attributes:
        probabilities: shape [buckets], non-negative, summing to 1.
        bucket_size: B, tokens.

    Raises:
        ValueError: empty, negative, not finite or not normalised probabilities, or B < 1.
    """

    probabilities: NDArray[np.float64]
    bucket_size: int

    def __post_init__(self) -> None:
        """Normalise exactly, after checking that there is something to normalise."""
        values = np.asarray(self.probabilities, dtype=np.float64)
        if self.bucket_size < 1:
            raise ValueError(f"bucket_size must be at least 1 token, not {self.bucket_size}")
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"probabilities must be a non-empty vector, not shape {values.shape}")
        if not np.all(np.isfinite(values)) or np.any(values < 0.0):
            raise ValueError("probabilities must be finite and not negative")
        if abs(values.sum() - 1.0) > _SUM_TOLERANCE:
            raise ValueError(f"probabilities must sum to 1, not {values.sum():.6f}")
        object.__setattr__(self, "probabilities", values / values.sum())

    def predicted_tokens(self, max_tokens: int) -> int:
        """N_hat = min(N_max, bucket * B): upper edge of the likeliest bucket, equation (2)."""
        bucket = int(np.argmax(self.probabilities)) + 1
        return min(max_tokens, bucket * self.bucket_size)

    def quantile_tokens(self, miss_probability: float, max_tokens: int) -> int:
        """Smallest bucket edge n with P(N > n) <= ``miss_probability``, at most N_max.

        Raises:
            ValueError: ``miss_probability`` outside [0, 1).
        """
        if not 0.0 <= miss_probability < 1.0:
            raise ValueError(f"miss_probability must be in [0, 1), not {miss_probability}")
        survival = 1.0 - np.cumsum(self.probabilities)
        # The last entry is 0 up to rounding, so an edge is always found.
        survival[-1] = 0.0
        bucket = int(np.argmax(survival <= miss_probability)) + 1
        return min(max_tokens, bucket * self.bucket_size)


def bucket_label(response_tokens: int, bucket_size: int) -> int:
    """Training label of a response of N >= 1 tokens: ceil(N / B), counted from 1."""
    return math.ceil(response_tokens / bucket_size)
