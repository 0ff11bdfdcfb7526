# SPDX-License-Identifier: Apache-2.0
"""How well a predictor's lengths match the generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from timebill_ros.budget.length import bucket_label
from timebill_ros.embedded.lengths import Pair
from timebill_ros.predictor.length_predictor import LengthPredictor


@dataclass(frozen=True)
class LengthQuality:
    """Errors of the bucket's upper edge N_hat, tokens, but for R2 and the two shares."""

    pairs: int
    mae: float
    rmse: float
    r2: float
    bucket_accuracy: float
    covered: float
    mae_of_mean: float
    """MAE of always predicting the mean length, for comparison."""
    mae_of_middle: float
    """MAE of the likeliest bucket's middle: N_hat without its built-in half bucket of excess."""

    def rounded(self) -> dict[str, float]:
        """All figures to four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure(predictor: LengthPredictor, pairs: Sequence[Pair], max_tokens: int) -> LengthQuality:
    """Predict every pair's length from its tokens, and compare.

    ``covered`` is the share N <= N_hat; R2 can be negative, where the mean would predict better.
    """
    size = predictor.bucket_size
    distributions = (predictor.predict("", pair.prompt_ids, None) for pair in pairs)
    predicted = np.array([d.predicted_tokens(max_tokens) for d in distributions])
    actual = np.array([pair.response_tokens for pair in pairs])
    label = np.array([bucket_label(int(n), size) for n in actual])
    error = predicted - actual
    spread = actual - actual.mean()
    return LengthQuality(
        pairs=len(pairs),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt((error**2).mean())),
        r2=float(1.0 - (error**2).sum() / (spread**2).sum()),
        bucket_accuracy=float((-(-predicted // size) == label).mean()),
        covered=float((actual <= predicted).mean()),
        mae_of_mean=float(np.abs(spread).mean()),
        mae_of_middle=float(np.abs(error - (size - 1) / 2).mean()),
    )
