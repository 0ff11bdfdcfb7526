# SPDX-License-Identifier: Apache-2.0
"""How often predicted miss probabilities were right lately.

A calibration is right as long as people ask what they asked when it was made. This module finds out
whether it still is, and corrects it where it is not. It looks at the probability that was predicted
for each of the latest responses. If the calibration is right, these probabilities are spread evenly
between 0 and 1. If it is not, their ranks tell the true probabilities: among n of them and a new
one, the new one has each of the n + 1 ranks with the same probability.

Some responses were cut off, by a cap or by a deadline. One that was cut off after n tokens tells
only that N > n. Leaving these out would leave out the long responses. The product-limit estimator
(Kaplan, Meier: *Nonparametric estimation from incomplete observations*, JASA 53, 1958) takes them
in; where none was cut off, it gives the plain ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
    """What the responses tell together; without any, a coverage that knows nothing."""
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
