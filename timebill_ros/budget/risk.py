# SPDX-License-Identifier: Apache-2.0
"""How long one response may get, at which risk: the prediction in the light of past ones."""

from __future__ import annotations

from dataclasses import dataclass

from timebill_ros.budget.calibration import Calibration, score
from timebill_ros.budget.coverage import Coverage, Seen
from timebill_ros.budget.length import LengthDistribution


@dataclass(frozen=True)
class LengthRisk:
    """The predicted length of one response, with what its probabilities are worth.

    Attributes:
        lengths: as predicted.
        calibration: from held-out pairs; None where the predictor has none, and its
            probabilities are taken as they are.
        coverage: what recent responses say of probabilities so calibrated.
    """

    lengths: LengthDistribution
    calibration: Calibration | None
    coverage: Coverage

    def miss_probability(self, tokens: int) -> float:
        """Calibrated P(N > ``tokens``); 1 where nothing was observed that could say less."""
        predicted = self.lengths.miss_probability(tokens)
        return self.coverage.risk(_stated(self.lengths, self.calibration, predicted))

    def planned_tokens(self, risk: float, max_tokens: int) -> int:
        """N_W: smallest n with a calibrated P(N > n) of at most ``risk``, at most N_max."""
        limit = self.coverage.stated_for(risk)
        if self.calibration is not None:
            limit = self.calibration.predicted(self.lengths, limit)
        tokens = self.lengths.tokens_below(limit)
        return max_tokens if tokens is None else min(tokens, max_tokens)


def seen(
    lengths: LengthDistribution,
    calibration: Calibration | None,
    response_tokens: int,
    *,
    complete: bool,
) -> Seen:
    """What a response of so many tokens, >= 1, adds to the coverage; cut off, it says N > n.

    In the last bucket it counts as complete: a predictor knows nothing longer.
    """
    known = complete or lengths.in_last_bucket(response_tokens)
    reached = score(lengths, response_tokens if known else response_tokens + 1)
    return Seen(_stated(lengths, calibration, reached), known)


def _stated(
    lengths: LengthDistribution, calibration: Calibration | None, predicted: float
) -> float:
    return predicted if calibration is None else calibration.calibrated(lengths, predicted)
