# SPDX-License-Identifier: Apache-2.0
"""What every eviction method has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class LayerPrompt:
    """A prefilled prompt in one layer.

    Attributes:
        layer: index of the layer.
        queries: rotated and scaled queries of the observation window, [H, w, D].
        keys: rotated keys of the whole prompt, [KV, N_x, D].
        values: its values, [KV, N_x, D].
    """

    layer: int
    queries: Tensor
    keys: Tensor
    values: Tensor

    @property
    def evictable(self) -> int:
        """Tokens before the observation window, N_x - w: all that a method chooses from."""
        return self.keys.shape[1] - self.queries.shape[1]


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
    """Indices of the ``count`` highest scores of each head, [KV, n] -> [KV, count], ascending."""
    return scores.topk(count, dim=-1, sorted=False).indices.sort(-1).values
