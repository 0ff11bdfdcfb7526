# SPDX-License-Identifier: Apache-2.0
"""Split conformal calibration: what a predicted miss probability is worth.

The score of a response of N tokens is the probability that its prediction gave to one at least
that long, S(N) = P(N' >= N): uniform on [0, 1] where the predictor is right, near 0 where a
response was surprisingly long. A plan for n tokens fails, N > n, just where S(N) <= S(n + 1). So
the ranks of held-out scores say how often a predicted probability is undercut in truth, whatever
the predictor: conformal prediction with the predicted distribution as its score (Chernozhukov,
Wuethrich, Zhu: *Distributional conformal prediction*, PNAS 118(48), 2021).

Of the bucket that a response ends in, a share counts that changes from request to request. The
lengths of one kind of request often end at the same place of a bucket, and any fixed share would
have some kinds always planned too short and others never; so every kind takes its part of the risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.length import LengthDistribution

# Miss probabilities at which scores are kept, where the pairs are enough for the lowest; between
# them the map is interpolated.
LEVELS = (
    *(0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)

# Stands for a score of 0 on a logarithmic scale.
_TINY = 1e-300

# So that a score that is just the limit is not below it for the last bit of a logarithm.
_ROUNDING = 1e-9

_GOLDEN_RATIO = (1.0 + 5.0**0.5) / 2.0


def place(number: int) -> float:
    """The share of its own bucket that counts for the request of that number.

    Within [0, 1), and as even as can be among any that follow each other: a sequence, not a random
    number, so that a run can be repeated.
    """
    return (number * _GOLDEN_RATIO) % 1.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """Maps predicted to true miss probabilities.

    Attributes:
        pairs: prompts and lengths that it stems from.
        levels: shape [k], true miss probabilities, rising within (0, 1).
        scores: shape [k]: the share ``levels[i]`` of responses has a score below ``scores[i]``.
            Never falling, within [0, 1].

    Raises:
        ValueError: arrays that are not as described.
    """

    pairs: int
    levels: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check what the look-ups below rely on."""
        levels = np.asarray(self.levels, dtype=np.float64)
        scores = np.asarray(self.scores, dtype=np.float64)
        if levels.ndim != 1 or not np.all((levels > 0.0) & (levels < 1.0)):
            raise ValueError("levels must be a vector of probabilities within (0, 1)")
        if levels.size == 0 or np.any(np.diff(levels) <= 0.0):
            raise ValueError("levels must rise, and be at least one")
        if scores.shape != levels.shape:
            raise ValueError(f"scores must have the shape {levels.shape}, not {scores.shape}")
        if not np.all((scores >= 0.0) & (scores <= 1.0)) or np.any(np.diff(scores) < 0.0):
            raise ValueError("scores must be probabilities that do not fall")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scores", scores)

    def calibrated(self, predicted: float) -> float:
        """The true miss probability of what is predicted as ``predicted``.

        Below the lowest level it is no more than a proportional guess, which keeps the order.
        """
        if predicted < self.scores[0]:
            return float(self.levels[0] * predicted / self.scores[0])
        knots = _log(np.append(self.scores, 1.0))
        return float(np.interp(_log(predicted), knots, np.append(self.levels, 1.0)))

    def predicted(self, risk: float) -> float:
        """Below what must be predicted for a true miss probability below ``risk``."""
        if risk < self.levels[0]:
            return float(self.scores[0] * risk / self.levels[0]) * (1.0 - _ROUNDING)
        knots = _log(np.append(self.scores, 1.0))
        limit = float(np.exp(np.interp(risk, np.append(self.levels, 1.0), knots)))
        return limit * (1.0 - _ROUNDING)


def fit_calibration(
    lengths: Sequence[LengthDistribution], response_tokens: Sequence[int]
) -> Calibration:
    """The calibration that held-out responses and their predictions support.

    Of n exchangeable scores a new one takes each of n + 1 ranks with the same probability, so at
    most a share ``level`` lies below the score of rank floor(level (n + 1)), counted from 1.
    Levels below 1 / (n + 1) are not known, and left out.

    Raises:
        ValueError: no pairs, or not as many lengths as predictions.
    """
    if not lengths:
        raise ValueError("a calibration needs at least one pair")
    pairs = enumerate(zip(lengths, response_tokens, strict=True))
    scores = np.sort([made.at_least(tokens, place(number)) for number, (made, tokens) in pairs])
    # The addition is for levels that are a whole number of ranks but for rounding.
    ranks = np.floor(np.array(LEVELS) * (scores.size + 1) + 1e-9).astype(int)
    known = ranks >= 1
    return Calibration(scores.size, np.array(LEVELS)[known], scores[ranks[known] - 1])


def _log(probability: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm, for scores of surprising responses differ by orders of magnitude."""
    return np.log(np.maximum(probability, _TINY))
