# SPDX-License-Identifier: Apache-2.0
"""Split conformal calibration: what a predicted miss probability is worth.

The score of a response of N tokens is the probability that its prediction gave to one at least
that long, S = P(N' >= N): uniform on [0, 1] where the predictor is right, near 0 where a response
was surprisingly long. A plan for n tokens fails, N > n, just where S <= P(N' > n). So the ranks of
held-out scores say how often a predicted probability is undercut in truth, whatever the predictor:
conformal prediction with the predicted distribution as its score (Chernozhukov, Wuethrich, Zhu:
*Distributional conformal prediction*, PNAS 118(48), 2021). Inside a bucket the distribution is
taken as linear, so that scores hardly ever tie and coverage is not a matter of bucket edges.

One map for all responses is right on average only: it makes up for the families that the predictor
misjudges with those that it knows by heart. So there is one for every range of N_hat, as fine as
the number of pairs allows (Mondrian conformal prediction; Vovk, Gammerman, Shafer: *Algorithmic
Learning in a Random World*, 2005): what is known when the plan is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
# Pairs from which a range of predicted lengths has a map of its own, with all levels.
PAIRS_PER_RANGE = round(1.0 / LEVELS[0])

# Stands for a score of 0 on a logarithmic scale.
_TINY = 1e-300

# So that a score that is just the limit is not below it for the last bit of a logarithm.
_ROUNDING = 1e-9


def score(lengths: LengthDistribution, response_tokens: int) -> float:
    """S = P(N' >= N), how probable the prediction held a response at least that long."""
    return lengths.miss_probability(response_tokens - 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Maps predicted to true miss probabilities, for every range of predicted lengths.

    Attributes:
        pairs: prompts and lengths that it stems from.
        levels: shape [k], true miss probabilities, ascending within (0, 1).
        longest: largest N_hat of each range, tokens, ascending; the last range has no end.
        scores: shape [ranges, k]: of the responses with such an N_hat, ``levels[i]`` have a score
            below ``scores[r, i]``. Never falling with i, within [0, 1].

    Raises:
        ValueError: arrays that are not as described.
    """

    pairs: int
    levels: NDArray[np.float64]
    longest: tuple[int, ...]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check what the look-ups below rely on."""
        levels = np.asarray(self.levels, dtype=np.float64)
        scores = np.asarray(self.scores, dtype=np.float64)
        if levels.ndim != 1 or not np.all((levels > 0.0) & (levels < 1.0)):
            raise ValueError("levels must be a vector of probabilities within (0, 1)")
        if levels.size == 0 or np.any(np.diff(levels) <= 0.0):
            raise ValueError("levels must rise, and be at least one")
        if not self.longest or np.any(np.diff(self.longest) <= 0):
            raise ValueError("the ranges of predicted tokens must rise, and be at least one")
        if scores.shape != (len(self.longest), levels.size):
            expected = (len(self.longest), levels.size)
            raise ValueError(f"scores must have the shape {expected}, not {scores.shape}")
        if not np.all((scores >= 0.0) & (scores <= 1.0)) or np.any(np.diff(scores) < 0.0):
            raise ValueError("scores must be probabilities that do not fall within a range")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "scores", scores)

    def calibrated(self, lengths: LengthDistribution, predicted: float) -> float:
        """The true miss probability of what ``lengths`` holds ``predicted`` probable.

        Never less than the lowest level: the pairs say nothing of what is rarer.
        """
        knots = np.append(self.scores[self._range(lengths)], 1.0)
        return float(np.interp(_log(predicted), _log(knots), np.append(self.levels, 1.0)))

    def predicted(self, lengths: LengthDistribution, risk: float) -> float:
        """Below what ``lengths`` must hold probable for a true miss probability below ``risk``.

        0, which nothing is below, where the pairs do not know such a rare miss.
        """
        if risk <= self.levels[0]:
            return 0.0
        knots = np.append(self.scores[self._range(lengths)], 1.0)
        limit = float(np.exp(np.interp(risk, np.append(self.levels, 1.0), _log(knots))))
        return limit * (1.0 - _ROUNDING)

    def _range(self, lengths: LengthDistribution) -> int:
        place = int(np.searchsorted(self.longest, lengths.likeliest_tokens))
        return min(place, len(self.longest) - 1)


def fit_calibration(
    lengths: Sequence[LengthDistribution], response_tokens: Sequence[int]
) -> Calibration:
    """The calibration that held-out responses and their predictions support.

    Of n exchangeable scores a new one takes each of n + 1 ranks with the same probability, so at
    most a share ``level`` lies below the score of rank floor(level (n + 1)), counted from 1.

    With n pairs in all, levels below 1 / (n + 1) are not known, and left out.

    Raises:
        ValueError: no pairs, or not as many lengths as predictions.
    """
    if not lengths:
        raise ValueError("a calibration needs at least one pair")
    pairs = zip(lengths, response_tokens, strict=True)
    scores = np.array([score(predicted, tokens) for predicted, tokens in pairs])
    predicted_tokens = np.array([predicted.likeliest_tokens for predicted in lengths])
    levels = np.array([level for level in LEVELS if level * (scores.size + 1) >= 1.0])
    longest, rows = [], []
    for members, last in _ranges(predicted_tokens):
        ordered = np.sort(scores[members])
        # The addition is for levels that are a whole number of ranks but for rounding.
        ranks = np.floor(levels * (ordered.size + 1) + 1e-9).astype(int)
        longest.append(last)
        rows.append(ordered[ranks - 1])
    return Calibration(len(lengths), levels, tuple(longest), np.array(rows))


def _ranges(predicted_tokens: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], int]]:
    """Members and largest N_hat of adjoining ranges of enough pairs; one where all are too few."""
    start = 0
    for last in np.unique(predicted_tokens):
        members = (predicted_tokens > start) & (predicted_tokens <= last)
        beyond = predicted_tokens > last
        if min(members.sum(), beyond.sum()) >= PAIRS_PER_RANGE:
            yield members, int(last)
            start = last
    yield predicted_tokens > start, int(predicted_tokens.max())


def _log(probability: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm, for scores of surprising responses differ by orders of magnitude."""
    return np.log(np.maximum(probability, _TINY))
