# SPDX-License-Identifier: Apache-2.0
"""How well predicted lengths match the generated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from timebill_ros.budget.length import LengthDistribution, bucket_label


class LengthErrors(NamedTuple):
    """How far predicted lengths are from the true ones, tokens but for R2."""

    mae: float
    rmse: float
    r2: float
    """Negative where the mean would predict better; not a number where all lengths are equal."""


def length_errors(predicted: ArrayLike, actual: ArrayLike) -> LengthErrors:
    """Errors of predicted lengths [n] against true ones [n], for n >= 1."""
    lengths = np.asarray(actual, dtype=np.float64)
    error = np.asarray(predicted, dtype=np.float64) - lengths
    variance = float(((lengths - lengths.mean()) ** 2).sum())
    squared = float((error**2).sum())
    return LengthErrors(
        mae=float(np.abs(error).mean()),
        rmse=math.sqrt(squared / error.size),
        r2=1.0 - squared / variance if variance else math.nan,
    )


@dataclass(frozen=True)
class LengthQuality:
    """Errors of the bucket's upper edge N_hat, tokens, but for R2 and the two shares."""

    pairs: int
    mae: float
    rmse: float
    r2: float
    bucket_accuracy: float
    covered: float
    """Share of N <= N_hat."""
    mae_of_mean: float
    """MAE of always predicting the mean length, for comparison."""
    mae_of_middle: float
    """MAE of the likeliest bucket's middle: N_hat without its built-in half bucket of excess."""

    def rounded(self) -> dict[str, float | None]:
        """All figures to four decimals; None for what is not a number, as JSON has none."""
        figures = asdict(self).items()
        return {name: None if math.isnan(value) else round(value, 4) for name, value in figures}


def length_quality(
    predicted: Sequence[LengthDistribution], actual: Sequence[int], max_tokens: int
) -> LengthQuality:
    """Compare predictions with generated lengths N, both capped by ``max_tokens``; not for none."""
    size = predicted[0].bucket_size
    edges = np.array([distribution.predicted_tokens(max_tokens) for distribution in predicted])
    lengths = np.array(actual)
    labels = np.array([bucket_label(int(n), size) for n in lengths])
    error = edges - lengths
    errors = length_errors(edges, lengths)
    return LengthQuality(
        pairs=len(lengths),
        **errors._asdict(),
        bucket_accuracy=float((-(-edges // size) == labels).mean()),
        covered=float((lengths <= edges).mean()),
        mae_of_mean=float(np.abs(lengths - lengths.mean()).mean()),
        mae_of_middle=float(np.abs(error - (size - 1) / 2).mean()),
    )
