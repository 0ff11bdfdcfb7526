# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from timebill_ros.budget.errors import SettingError


@dataclass(frozen=True)
class Sampling:
    """How response tokens are chosen; the default is greedy.

    Args:
        temperature: 0 takes the most likely token; above, logits are divided by it.
        top_p: sample from the smallest set of tokens whose probability reaches this, in (0, 1].
        seed: every request draws from this seed anew, so equal requests get equal responses.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SettingError("temperature", self.temperature, "finite and >= 0")
        if not 0 < self.top_p <= 1:
            raise SettingError("top_p", self.top_p, "in (0, 1]")


class Sampler:
    """Draws the tokens of one request after another."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        # On the host whatever the model's device is, so that a seed means the same everywhere.
        self._generator = torch.Generator()

    def begin(self) -> None:
        """Start a request's random sequence."""
        self._generator.manual_seed(self._sampling.seed)

    def pick(self, logits: Tensor) -> int | None:
        """The next token of logits [V]; None if the logits are not finite."""
        largest, index = logits.max(-1)  # NaN wins every comparison, so looking here is enough
        if not math.isfinite(largest.item()):
            return None
        if self._sampling.temperature == 0:
            return int(index.item())
        return self._draw(logits.float().cpu())

    def _draw(self, logits: Tensor) -> int:
        probabilities, tokens = (
            (logits / self._sampling.temperature).softmax(-1).sort(descending=True)
        )
        # A token is out when those before it reach top_p already; the first always stays.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= self._sampling.top_p, 0.0)
        choice = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(tokens[choice].item())
