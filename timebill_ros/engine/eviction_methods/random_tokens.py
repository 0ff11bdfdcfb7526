# SPDX-License-Identifier: Apache-2.0
"""Random eviction: what any method should beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt


@dataclass(frozen=True)
class RandomTokens(EvictionMethod):
    """Keeps tokens at random, drawn for every layer and head.

    A baseline: the draw follows from the seed, the layer and the prompt's length alone, so a
    request always repeats.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Uniform random numbers, [KV, N_x - w], the same on every device."""
        generator = torch.Generator().manual_seed(self.seed + prompt.layer)
        drawn = torch.rand(len(prompt.keys), prompt.evictable, generator=generator)
        return drawn.to(prompt.keys.device)
