# SPDX-License-Identifier: Apache-2.0
"""Key norm: short keys draw attention (arXiv 2406.11430)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt


@dataclass(frozen=True)
class KeyNorm(EvictionMethod):
    """Keeps the tokens with the shortest keys (Devoto et al., arXiv 2406.11430, section 3).

    Blind to what the prompt asks for. The authors leave the first layers whole; here every layer
    keeps the same number.
    """

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """The keys' Euclidean norm, negative, [KV, N_x - w]; rotation does not change it."""
        keys = prompt.keys[:, : prompt.evictable]
        return -torch.linalg.vector_norm(keys, dim=-1, dtype=torch.float32)
