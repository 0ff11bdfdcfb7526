# SPDX-License-Identifier: Apache-2.0
"""What an eviction method is, and those that are blind to what the prompt asks for: baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerPrompt:
    """A prefilled prompt in one layer.

    Attributes:
        layer: index of the layer.
        attention: mean attention of the observation window to the tokens before it, see
            ``attention.observed_attention``, [KV, N_x - w].
        keys: rotated keys of the whole prompt, [KV, N_x, D].
        values: its values, [KV, N_x, D].
    """

    layer: int
    attention: Tensor
    keys: Tensor
    values: Tensor

    @property
    def evictable(self) -> int:
        """Tokens before the observation window, N_x - w: all that a method chooses from."""
        return self.attention.shape[1]


class EvictionMethod(Protocol):
    """Chooses, for every layer and key head, the prompt tokens that stay.

    Every head keeps as many tokens, since the cache has one length; the observation window stays
    whatever the method. What is kept of fewer tokens is a part of what is kept of more, so that
    evicting in steps ends where evicting at once does.
    """

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Score the evictable tokens of one layer, from the whole prompt.

        Returns:
            [..., KV, N_x - w], float32; the higher the better. Dimensions before the heads are the
            method's own.
        """

    def keep(self, scores: Tensor, count: int) -> Tensor:
        """The ``count`` tokens that stay, given the scores of those that are left.

        Returns:
            Indices into the scores' last dimension, [KV, count], ascending.
        """
        return keep_highest(scores, count)


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of each head, [KV, n] -> [KV, count], ascending.

    Marking them and reading the marks in order takes half the time of sorting the indices.
    """
    highest = scores.topk(count, dim=-1, sorted=False).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, highest, True)
    return kept.nonzero()[:, 1].view(len(scores), count)


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
