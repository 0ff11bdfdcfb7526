# SPDX-License-Identifier: Apache-2.0
"""How probable it is that one response becomes longer than planned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.coverage import Coverage, Observation
from timebill_ros.budget.length import LengthDistribution

# A model that lost most of its context may not find an end. Responses after a larger eviction than
# this are observed apart, so that they do not make all others look long.
HEAVY_EVICTION = 0.75

# How many responses a prediction counts for, where recent ones are asked whether it is right.
PRIOR_RESPONSES = 20


@dataclass(frozen=True)
class LengthRisk:
    """The predicted length of one response, corrected by what is known of the predictor.

    A predicted probability is corrected twice: by the calibration, which was fitted before, and by
    the coverage, which was observed since.

    Attributes:
        lengths: the prediction.
        pit_share: the share of a bucket that counts for this request, see
            ``calibration.pit_share``.
        calibration: fitted to held-out pairs. None where the predictor has none; then its
            probabilities are taken as they are.
        coverage: how calibrated probabilities compare with recent responses.
        coverage_of_evicted: the same for responses after an eviction of more than
            ``HEAVY_EVICTION``; None where they are not told apart.
    """

    lengths: LengthDistribution
    pit_share: float
    calibration: Calibration | None
    coverage: Coverage
    coverage_of_evicted: Coverage | None = None

    def at(self, alpha: float) -> LengthRisk:
        """The same for a response that comes after evicting at ``alpha``."""
        if alpha <= HEAVY_EVICTION or self.coverage_of_evicted is None:
            return self
        return replace(self, coverage=self.coverage_of_evicted)

    def miss_probability(self, tokens: int) -> float | None:
        """The corrected P(N > ``tokens``); None where nothing was observed that could tell.

        Does not depend on ``pit_share``. Of the bucket that ``tokens`` lies in, the part behind it
        counts, as if every length of a bucket were equally probable.
        """
        if not self.coverage.known:
            return None
        rest = 1.0 - tokens % self.lengths.bucket_size / self.lengths.bucket_size
        return self.coverage.risk(self._calibrated(self.lengths.at_least(tokens + 1, rest)))

    def probability_beyond(
        self, tokens: NDArray[np.int64], alphas: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """P(N > tokens) after evicting at ``alphas``, all of one shape.

        As ``miss_probability``, but what few responses say is held against what was predicted,
        which counts as ``PRIOR_RESPONSES`` of them: one response alone would say one half.
        """
        predicted = self.lengths.beyond(tokens)
        if self.calibration is not None:
            predicted = self.calibration.calibrated_all(predicted)
        kept = _in_the_light_of(self.coverage, predicted, predicted)
        if self.coverage_of_evicted is None:
            return kept
        evicted = _in_the_light_of(self.coverage_of_evicted, predicted, kept)
        return np.where(alphas > HEAVY_EVICTION, evicted, kept)

    def planned_tokens(self, risk: float, max_tokens: int) -> int:
        """N_W: the smallest n that a response exceeds with at most ``risk``, at most N_max.

        The promise is about all requests together, not about each. Where the predictor is sure of
        the bucket, the plan of the share ``risk`` of requests is too short, and all others are
        safe; ``pit_share`` decides, and ``miss_probability`` tells which this one is.
        """
        limit = self.coverage.predicted_for(risk)
        if self.calibration is not None:
            limit = self.calibration.predicted(limit)
        tokens = self.lengths.tokens_below(limit, self.pit_share)
        return max_tokens if tokens is None else min(tokens, max_tokens)

    def observation(self, response_tokens: int, *, complete: bool) -> Observation:
        """What a response of at least one token adds to the coverage.

        One that was cut off tells that it would have been longer. In the last bucket it counts as
        complete, since the predictor knows nothing longer.
        """
        known = complete or self.lengths.in_last_bucket(response_tokens)
        reached = response_tokens if known else response_tokens + 1
        return Observation(self._calibrated(self.lengths.at_least(reached, self.pit_share)), known)

    def _calibrated(self, predicted: float) -> float:
        return predicted if self.calibration is None else self.calibration.calibrated(predicted)


def _in_the_light_of(
    coverage: Coverage, predicted: NDArray[np.float64], before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``before`` drawn towards what the coverage says, the more the more it has seen."""
    seen = coverage.predicted.size
    observed = coverage.risks(predicted)
    return (seen * observed + PRIOR_RESPONSES * before) / (seen + PRIOR_RESPONSES)
