# SPDX-License-Identifier: Apache-2.0
"""Methods that do not look at the instruction: the floor under the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from timebill_ros.selection.method import SelectionMethod


class Recent(SelectionMethod):
    """The end of the prompt."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """All the same, so that the last ones stay."""
        return np.zeros(len(passages))


class RandomPassages(SelectionMethod):
    """Any passages, the same ones for the same number of them."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """Drawn from a fixed seed."""
        return np.random.default_rng(0).random(len(passages))
