# SPDX-License-Identifier: Apache-2.0
"""What recent responses say of stated miss probabilities: conformal ranks, some of them cut off.

A calibration holds while what is asked stays the same. The scores of the latest responses, in its
own terms, show whether it still does: they are uniform then, and where they are not, their ranks
say what a stated probability has become. Of n exchangeable scores, a new one takes each of n + 1
ranks with the same probability.

Responses that a cap or a deadline cut off after n tokens only say N > n. To leave them out would
leave out the long ones; so ranks are taken by the product-limit estimator (Kaplan, Meier:
*Nonparametric estimation from incomplete observations*, JASA 53, 1958), which is the same without
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Seen(NamedTuple):
    """How probable it was said to be that a response gets as far as it did.

    Attributes:
        stated: stated P(N' >= N) of a complete response; of one cut off after n tokens, P(N' > n).
        complete: whether the response ended by itself.
    """

    stated: float
    complete: bool


@dataclass(frozen=True, eq=False)
class Coverage:
    """Maps stated to observed miss probabilities: a step function that never falls.

    Attributes:
        stated: shape [n], ascending.
        observed: shape [n], ascending: the miss probability of what is stated below ``stated[i]``
            and not below ``stated[i - 1]``. From the last one on it is 1.
    """

    stated: NDArray[np.float64]
    observed: NDArray[np.float64]

    @property
    def known(self) -> bool:
        """Whether anything was observed."""
        return self.stated.size > 0

    def risk(self, stated: float) -> float:
        """The observed miss probability of what is stated as ``stated``."""
        place = int(np.searchsorted(self.stated, stated, side="right"))
        return 1.0 if place == self.stated.size else float(self.observed[place])

    def stated_for(self, risk: float) -> float:
        """Below what must be stated for an observed miss probability of at most ``risk``.

        0, which nothing is below, where too little was observed to know such a rare miss.
        """
        place = int(np.searchsorted(self.observed, risk * (1.0 + _ROUNDING), side="right"))
        return 0.0 if place == 0 else float(self.stated[place - 1])


# So that a risk of 1/20 is reached by the first of 19 ranks, not by the second.
_ROUNDING = 1e-9


def observed_coverage(seen: Sequence[Seen]) -> Coverage:
    """The coverage that responses show; empty, and of no help for any risk, without any."""
    stated = np.array([each.stated for each in seen], dtype=np.float64)
    complete = np.array([each.complete for each in seen], dtype=bool)
    # One cut off at what another reached is not known to have got as far: it comes after it.
    order = np.lexsort((~complete, stated))
    stated, complete = stated[order], complete[order]
    # In the order of length, from the back: who was still there, the response to come included.
    there = np.arange(2.0, stated.size + 2.0)
    went_on = 1.0 - complete / there
    return Coverage(stated, np.cumprod(went_on[::-1])[::-1])
