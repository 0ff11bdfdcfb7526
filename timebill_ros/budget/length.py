# SPDX-License-Identifier: Apache-2.0
"""The response length as the predictor sees it: a distribution over buckets of B tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Tolerance on sum(probabilities) = 1: float32 softmax over a few hundred buckets.
_SUM_TOLERANCE = 1e-3

# So that what is just reached does not count as below for the last bit of a quotient.
_ROUNDING = 1e-9


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
        return min(max_tokens, self.likeliest_tokens)

    @property
    def likeliest_tokens(self) -> int:
        """N_hat without a cap."""
        return (int(np.argmax(self.probabilities)) + 1) * self.bucket_size

    def in_last_bucket(self, tokens: int) -> bool:
        """Whether a response of so many tokens is as long as this distribution can tell."""
        return tokens > (self.probabilities.size - 1) * self.bucket_size

    def miss_probability(self, tokens: int) -> float:
        """P(N > ``tokens``), linear within a bucket; 0 from the last bucket's end on."""
        if tokens <= 0:
            return 1.0
        bucket, within = divmod(tokens, self.bucket_size)
        beyond = self._beyond()
        if bucket >= self.probabilities.size:
            return 0.0
        return float(beyond[bucket] - self.probabilities[bucket] * within / self.bucket_size)

    def tokens_below(self, miss_probability: float) -> int | None:
        """Smallest n >= 1 with P(N > n) < ``miss_probability``; None where there is none."""
        beyond = self._beyond()
        if miss_probability <= 0.0:
            return None
        # The last edge is 0, so that one is found; an n of 0 is no response.
        bucket = max(1, int(np.argmax(beyond < miss_probability)))
        excess = beyond[bucket - 1] - miss_probability
        share = excess / self.probabilities[bucket - 1] if excess > 0.0 else 0.0
        within = math.floor(share * self.bucket_size * (1.0 + _ROUNDING)) + 1
        return (bucket - 1) * self.bucket_size + min(within, self.bucket_size)

    def _beyond(self) -> NDArray[np.float64]:
        """P(N > j B) for j = 0..buckets, summed from the far end to keep small ones exact."""
        beyond = np.zeros(self.probabilities.size + 1)
        beyond[:-1] = np.cumsum(self.probabilities[::-1])[::-1]
        return beyond


def bucket_label(response_tokens: int, bucket_size: int) -> int:
    """Training label of a response of N >= 1 tokens: ceil(N / B), counted from 1."""
    return math.ceil(response_tokens / bucket_size)
