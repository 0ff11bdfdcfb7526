# SPDX-License-Identifier: Apache-2.0
"""Corrects the length predictor's probabilities by split conformal calibration.

A plan has room for n tokens, and fails if the response is longer. The predictor gives a probability
for that. This module finds out, on held-out responses, how often a plan with such a probability
fails in truth.

Each response of N tokens has a score: the probability that its prediction gave to a response as
long or longer, S(N) = P(N' >= N). A surprisingly long response has a score near 0. If the predictor
is right, the scores are spread evenly between 0 and 1. A plan for n tokens fails exactly if
S(N) <= S(n + 1). So the ranks of held-out scores tell how often plans fail, whatever the predictor
is worth (Chernozhukov, Wuethrich, Zhu: *Distributional conformal prediction*, PNAS 118(48), 2021).

The predictor gives probabilities of buckets, and does not say where in its bucket a response ends.
So only a share of that bucket's probability counts for the score, and the share differs from
request to request (see ``pit_share``). With the same share for all, requests whose answers end late
in a bucket would always get plans that are too short, and others never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.length import LengthDistribution

# The miss probabilities for which a calibration keeps scores, as far as there are pairs enough for
# the lowest. Between them the scores are interpolated.
LEVELS = (
    *(0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
)

# Replaces a score of 0, which has no logarithm.
_TINY = 1e-300

# Keeps a score that equals the limit from falling below it when its logarithm is rounded.
_ROUNDING = 1e-9

_GOLDEN_RATIO = (1.0 + 5.0**0.5) / 2.0


def pit_share(number: int) -> float:
    """The share of its own bucket's probability that counts for a request's score, in [0, 1).

    The randomised probability integral transform draws this share at random. Here the n-th request
    has the fractional part of n times the golden ratio: any run of requests has evenly spread
    shares, and a run can be repeated exactly.
    """
    return (number * _GOLDEN_RATIO) % 1.0


@dataclass(frozen=True, eq=False)
class Calibration:
    """Maps predicted miss probabilities to true ones.

    Attributes:
        pairs: number of prompts and lengths that it was fitted to.
        levels: shape [k], true miss probabilities, rising, within (0, 1).
        scores: shape [k], never falling, within [0, 1]. The share ``levels[i]`` of responses has a
            score below ``scores[i]``.

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
        """The true miss probability that belongs to a predicted one.

        Below the lowest level nothing was measured. There the result is proportional to the
        predicted probability, so that at least the order is kept.
        """
        if predicted < self.scores[0]:
            return float(self.levels[0] * predicted / self.scores[0])
        knots = _log(np.append(self.scores, 1.0))
        return float(np.interp(_log(predicted), knots, np.append(self.levels, 1.0)))

    def calibrated_all(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """``calibrated`` of every element."""
        knots = _log(np.append(self.scores, 1.0))
        within = np.interp(_log(predicted), knots, np.append(self.levels, 1.0))
        below = self.levels[0] * predicted / max(self.scores[0], _TINY)
        return np.asarray(np.where(predicted < self.scores[0], below, within))

    def predicted(self, risk: float) -> float:
        """The bound below which a predicted probability means a true one below ``risk``."""
        if risk < self.levels[0]:
            return float(self.scores[0] * risk / self.levels[0]) * (1.0 - _ROUNDING)
        knots = _log(np.append(self.scores, 1.0))
        limit = float(np.exp(np.interp(risk, np.append(self.levels, 1.0), knots)))
        return limit * (1.0 - _ROUNDING)


def fit_calibration(
    lengths: Sequence[LengthDistribution], response_tokens: Sequence[int]
) -> Calibration:
    """Fit a calibration to held-out responses.

    Among n scores and a new one, the new one has each of the n + 1 ranks with the same probability.
    So it lies below the score of rank floor(level (n + 1)), counted from 1, with at most the
    probability ``level``. Levels below 1 / (n + 1) cannot be known from n scores, and are left out.

    Args:
        lengths: what was predicted for each prompt.
        response_tokens: how long each response became.

    Raises:
        ValueError: no pairs, or not as many lengths as predictions.
    """
    if not lengths:
        raise ValueError("a calibration needs at least one pair")
    pairs = enumerate(zip(lengths, response_tokens, strict=True))
    scores = np.sort([made.at_least(tokens, pit_share(number)) for number, (made, tokens) in pairs])
    # Some levels give a whole number of ranks, and rounding must not make it one less.
    ranks = np.floor(np.array(LEVELS) * (scores.size + 1) + 1e-9).astype(int)
    known = ranks >= 1
    return Calibration(scores.size, np.array(LEVELS)[known], scores[ranks[known] - 1])


def _log(probability: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm: the scores of surprising responses differ by orders of magnitude."""
    return np.log(np.maximum(probability, _TINY))
