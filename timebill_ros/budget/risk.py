# SPDX-License-Identifier: Apache-2.0
"""How probable it is that one response becomes longer than planned.

The prediction is corrected twice: by the calibration, which was fitted before the node started, and
by how often such predictions were right since, the coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.length import LengthDistribution


class Observation(NamedTuple):
    """What one response tells.

    Attributes:
        predicted: the probability that was predicted for a response as long as this one or longer,
            P(N' >= N). For a response that was cut off after n tokens, P(N' > n).
        complete: whether the response ended by itself.
    """

    predicted: float
    complete: bool


@dataclass(frozen=True, eq=False)
class Coverage:
    """Maps predicted miss probabilities to observed ones: a step function that never falls.

    A calibration is right as long as people ask what they asked when it was made. The coverage says
    whether it still is, and corrects it where it is not. It looks at the probability that was
    predicted for each of the latest responses. If the calibration is right, these probabilities are
    spread evenly between 0 and 1. If it is not, their ranks tell the true probabilities: among n of
    them and a new one, the new one has each of the n + 1 ranks with the same probability.

    Attributes:
        predicted: shape [n], ascending.
        observed: shape [n], ascending. A plan has the miss probability ``observed[i]`` if its
            predicted one is at least ``predicted[i - 1]`` and below ``predicted[i]``. A plan whose
            predicted one is above all of them has 1.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]

    @property
    def known(self) -> bool:
        """Whether anything was observed."""
        return self.predicted.size > 0

    def risk(self, predicted: float) -> float:
        """The observed miss probability that belongs to a predicted one."""
        index = int(np.searchsorted(self.predicted, predicted, side="right"))
        return 1.0 if index == self.predicted.size else float(self.observed[index])

    def risks(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """``risk`` of every element."""
        indices = np.searchsorted(self.predicted, predicted, side="right")
        return np.append(self.observed, 1.0)[indices]

    def predicted_for(self, risk: float) -> float:
        """The bound below which a predicted probability means an observed one of at most ``risk``.

        0 where so rare a miss is not known yet: nothing is predicted below 0.
        """
        index = int(np.searchsorted(self.observed, risk * (1.0 + _ROUNDING), side="right"))
        return 0.0 if index == 0 else float(self.predicted[index - 1])


# 19 observations have 20 ranks, and the first of them is a risk of 1/20, whatever the rounding.
_ROUNDING = 1e-9


def observed_coverage(observations: Sequence[Observation]) -> Coverage:
    """What the responses tell together; without any, a coverage that knows nothing.

    Some responses were cut off, by a cap or by a deadline. One that was cut off after n tokens
    tells only that N > n. To leave these out would be to leave out the long responses. The
    product-limit estimator (Kaplan, Meier: *Nonparametric estimation from incomplete observations*,
    JASA 53, 1958) takes them in; where none was cut off, it gives the plain ranks.
    """
    predicted = np.array([each.predicted for each in observations], dtype=np.float64)
    complete = np.array([each.complete for each in observations], dtype=bool)
    # Of two responses with one probability, the complete one comes first: nobody knows that the
    # one that was cut off would have ended there.
    order = np.lexsort((~complete, predicted))
    predicted, complete = predicted[order], complete[order]
    # From the longest response to the shortest: how many were not shorter, the new one included,
    # and which share of them went on.
    remaining = np.arange(2.0, predicted.size + 2.0)
    went_on = 1.0 - complete / remaining
    return Coverage(predicted, np.cumprod(went_on[::-1])[::-1])


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
