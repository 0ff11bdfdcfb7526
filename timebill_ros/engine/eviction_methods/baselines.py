# SPDX-License-Identifier: Apache-2.0
"""Methods that are blind to what the prompt asks for: the baselines of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt


@dataclass(frozen=True)
class StreamingLLM(EvictionMethod):
    """Keeps the first tokens, on which attention rests, and the most recent (arXiv 2309.17453).

    Xiao et al., section 3.2. There the kept tokens are given new, adjoining positions; here they
    keep their own, as with every other method.

    Attributes:
        sinks: first tokens to keep, before any recent one.
    """

    sinks: int = 4

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Higher the later, but highest for the sinks; [KV, N_x - w], a view of one row."""
        kv_heads, count = len(prompt.keys), prompt.evictable
        row = torch.arange(count, dtype=torch.float32, device=prompt.keys.device)
        sinks = row[: self.sinks]
        sinks.neg_().add_(count + self.sinks)  # the first of them is the last to go
        return row.expand(kv_heads, count)


@dataclass(frozen=True)
class KeyNorm(EvictionMethod):
    """Keeps the tokens with the shortest keys (Devoto et al., arXiv 2406.11430, section 3).

    Blind to what the prompt asks for. The authors leave the first layers whole; here every layer
    keeps the same number.
    """

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """The keys' Euclidean norm, negative, [KV, N_x - w]; rotation does not change it."""
        keys = prompt.keys[:, : prompt.evictable]
        norms: Tensor = torch.linalg.vector_norm(keys, dim=-1, dtype=torch.float32)
        return norms.neg()


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
