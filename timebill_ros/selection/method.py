# SPDX-License-Identifier: Apache-2.0
"""What every selection method has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SelectionMethod(Protocol):
    """Says which passages of a prompt matter to its instruction."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """Score every passage, shape [len(passages)]; the higher the better.

        Passages of equal scores are kept from the end, which is what a text without an instruction
        is usually about.
        """
