# SPDX-License-Identifier: Apache-2.0
"""What the server needs from a length predictor, real or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from timebill_ros.budget.length import LengthDistribution


class PendingPrediction(Protocol):
    """A prediction under way beside prefill."""

    def wait(self, timeout: float) -> LengthDistribution | None:
        """The distribution, waiting at most ``timeout`` s; None where it is not there by then.

        Raises:
            Exception: whatever the predictor raised.
        """

    def cancel(self) -> None:
        """Nobody waits for it any more; one that has not started never will."""

    @property
    def elapsed(self) -> float:
        """Seconds that the predictor has worked on it."""


class PredictionService(Protocol):
    """Starts predictions that run beside the engine."""

    def start(self, text: str, prompt_ids: Sequence[int], max_input: int) -> PendingPrediction:
        """Begin to predict from at most ``max_input`` tokens; returns at once."""
