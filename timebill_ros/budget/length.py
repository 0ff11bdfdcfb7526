# SPDX-License-Identifier: Apache-2.0
"""The response length as the predictor sees it: a distribution over buckets of B tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
        return min(max_tokens, self.likeliest_tokens)

    @property
    def likeliest_tokens(self) -> int:
        """N_hat without a cap."""
        return (int(np.argmax(self.probabilities)) + 1) * self.bucket_size

    def in_last_bucket(self, tokens: int) -> bool:
        """Whether a response of so many tokens is as long as this distribution can tell."""
        return tokens > (self.probabilities.size - 1) * self.bucket_size

    def at_least(self, tokens: int, pit_share: float) -> float:
        """P(N >= ``tokens``), of whose own bucket only the share ``pit_share`` counts.

        A distribution over buckets does not say where in one a response ends. With a share drawn
        evenly from [0, 1) what it says of its responses is evenly spread too, if it is right
        (randomised probability integral transform; Czado, Gneiting, Held: *Predictive model
        assessment for count data*, Biometrics 65(4), 2009).
        """
        bucket = bucket_label(tokens, self.bucket_size) - 1
        if bucket >= self.probabilities.size:
            return 0.0
        return float(self._beyond()[bucket] + pit_share * self.probabilities[bucket])

    def beyond(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """P(N > tokens), in the shape of ``tokens``; within a bucket every length is as likely."""
        ends = np.arange(self.probabilities.size + 1) * self.bucket_size
        longer = np.append(1.0, self._beyond())
        return np.asarray(np.interp(np.asarray(tokens), ends, longer))

    def tokens_below(self, limit: float, pit_share: float) -> int | None:
        """Smallest n >= 1 with ``at_least`` of all that is longer below ``limit``; None for none.

        That is the end of a bucket.
        """
        if limit <= 0.0:
            return None
        reached = self._beyond() + pit_share * self.probabilities
        return max(1, int((reached >= limit).sum()) * self.bucket_size)

    def _beyond(self) -> NDArray[np.float64]:
        """P(longer) by bucket, summed from the far end to keep small ones exact."""
        return np.append(np.cumsum(self.probabilities[:0:-1])[::-1], 0.0)


def bucket_label(response_tokens: int, bucket_size: int) -> int:
    """Training label of a response of N >= 1 tokens: ceil(N / B), counted from 1."""
    return math.ceil(response_tokens / bucket_size)
