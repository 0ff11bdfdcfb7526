# SPDX-License-Identifier: Apache-2.0
"""How well predicted lengths match the generated ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from timebill_ros.budget.length import LengthDistribution, bucket_label


@dataclass(frozen=True)
class LengthQuality:
    """Errors of the bucket's upper edge N_hat, tokens, but for R2 and the two shares."""

    pairs: int
    mae: float
    rmse: float
    r2: float
    """Negative where the mean would predict better; not a number where all lengths are equal."""
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
    spread = lengths - lengths.mean()
    variance = float((spread**2).sum())
    return LengthQuality(
        pairs=len(lengths),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        r2=1.0 - float((error**2).sum()) / variance if variance else math.nan,
        bucket_accuracy=float((-(-edges // size) == labels).mean()),
        covered=float((lengths <= edges).mean()),
        mae_of_mean=float(np.abs(spread).mean()),
        mae_of_middle=float(np.abs(error - (size - 1) / 2).mean()),
    )
