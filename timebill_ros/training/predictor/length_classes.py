# SPDX-License-Identifier: Apache-2.0
"""Ranges of response lengths that a classifier tells apart, and what it predicts for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LengthClasses:
    """Class i, counted from 0, covers the lengths (upper[i-1], upper[i]]; the first starts at 1.

    Attributes:
        upper: shape [classes], ascending; the last is N_model, the longest response.

    Raises:
        ValueError: no classes, or edges that do not ascend from 1.
    """

    upper: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check what the look-ups below rely on."""
        if self.upper.size == 0 or np.any(np.diff(self.upper, prepend=0) < 1):
            raise ValueError(f"upper edges must ascend from 1, not {self.upper.tolist()}")

    @property
    def count(self) -> int:
        """Number of classes."""
        return int(self.upper.size)

    def labels(self, lengths: Sequence[int]) -> NDArray[np.int64]:
        """The classes of some lengths, none above N_model."""
        return np.searchsorted(self.upper, lengths, side="left")

    def means(self, lengths: Sequence[int]) -> NDArray[np.float64]:
        """Mean of those ``lengths`` that fall into each class; the middle where none does."""
        labels, values = self.labels(lengths), np.asarray(lengths, dtype=np.float64)
        lower = np.concatenate([[0], self.upper[:-1]])
        means = (lower + 1 + self.upper) / 2.0
        for label in np.unique(labels):
            means[label] = values[labels == label].mean()
        return means


def buckets(size: int, longest_response: int) -> LengthClasses:
    """Buckets of ``size`` tokens (B), the paper's own: N_hat is min(N_model, bucket * B)."""
    edges = np.arange(size, longest_response + size, size)
    return LengthClasses(np.minimum(edges, longest_response))
