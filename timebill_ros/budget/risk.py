# SPDX-License-Identifier: Apache-2.0
"""How long one response may get, at which risk: the prediction in the light of past ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from timebill_ros.budget.calibration import Calibration
from timebill_ros.budget.coverage import Coverage, Seen
from timebill_ros.budget.length import LengthDistribution

# Responses to prompts of which a larger share was evicted are judged apart: a model that lost most
# of its context may run on, and would make all others seem likely to.
MOST = 0.75


@dataclass(frozen=True)
class LengthRisk:
    """The predicted length of one response, with what its probabilities are worth.

    Attributes:
        lengths: as predicted.
        place: the share of a bucket that counts for this request, see ``calibration.place``.
        calibration: from held-out pairs; None where the predictor has none, and its
            probabilities are taken as they are.
        coverage: what recent responses say of probabilities so calibrated.
        coverage_of_evicted: the same of those for which more than ``MOST`` was evicted; None
            where they are not told apart.
    """

    lengths: LengthDistribution
    place: float
    calibration: Calibration | None
    coverage: Coverage
    coverage_of_evicted: Coverage | None = None

    def at(self, alpha: float) -> LengthRisk:
        """The risk of the response that comes after evicting at ``alpha``."""
        if alpha <= MOST or self.coverage_of_evicted is None:
            return self
        return replace(self, coverage=self.coverage_of_evicted)

    def miss_probability(self, tokens: int) -> float | None:
        """Calibrated P(N > ``tokens``); None where nothing was observed that could tell.

        Whatever the place: a response is longer just where its score is below P(N' > n), of which
        the rest of the bucket that n lies in is taken as its share.
        """
        if not self.coverage.known:
            return None
        rest = 1.0 - tokens % self.lengths.bucket_size / self.lengths.bucket_size
        return self.coverage.risk(self._calibrated(self.lengths.at_least(tokens + 1, rest)))

    def planned_tokens(self, risk: float, max_tokens: int) -> int:
        """N_W: smallest n that is exceeded with at most ``risk``, at most N_max.

        That is a promise for all requests together. Where the length is known to the bucket, the
        plan is too short for the share ``risk`` of places, and safe for the others;
        ``miss_probability`` tells which.
        """
        limit = self.coverage.stated_for(risk)
        if self.calibration is not None:
            limit = self.calibration.predicted(limit)
        tokens = self.lengths.tokens_below(limit, self.place)
        return max_tokens if tokens is None else min(tokens, max_tokens)

    def seen(self, response_tokens: int, *, complete: bool) -> Seen:
        """What a response of so many tokens, >= 1, adds to the coverage; cut off, it says N > n.

        In the last bucket it counts as complete: a predictor knows nothing longer.
        """
        known = complete or self.lengths.in_last_bucket(response_tokens)
        reached = response_tokens if known else response_tokens + 1
        return Seen(self._calibrated(self.lengths.at_least(reached, self.place)), known)

    def _calibrated(self, predicted: float) -> float:
        return predicted if self.calibration is None else self.calibration.calibrated(predicted)
