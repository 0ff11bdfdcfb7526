# SPDX-License-Identifier: Apache-2.0
"""ChunkKV: whole passages instead of single tokens (arXiv 2502.00299)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt
from timebill_ros.engine.eviction_methods.snapkv import SnapKV


@dataclass(frozen=True)
class ChunkKV(EvictionMethod):
    """Keeps the chunks that the observation window attends to (arXiv 2502.00299, Algorithm 1).

    Liu et al. score a chunk of adjoining tokens by the attention that it gets, and keep or drop it
    as a whole, for all heads of a layer: what belongs together stays readable. To keep exactly the
    number asked for, the last chunk to be kept may be kept in part, its best tokens.

    Attributes:
        attention: scores the tokens.
        chunk: tokens per chunk; the paper's 10.
    """

    attention: SnapKV = field(default_factory=SnapKV)
    chunk: int = 10

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Minus the place at which a token is kept, [KV, N_x - w], a view of one row.

        Chunks are placed by their mean attention over tokens and heads, tokens within one by their
        own.
        """
        tokens = self.attention.scores(prompt).sum(0)
        count = len(tokens)
        chunks = F.pad(tokens, (0, -count % self.chunk), value=float("nan")).view(-1, self.chunk)
        chunk_places = _places(chunks.nanmean(-1))[:, None]
        token_places = _places(chunks.nan_to_num(float("-inf")))
        places = (chunk_places * self.chunk + token_places).flatten()[:count]
        return -places.float().expand(len(prompt.keys), count)


def _places(scores: Tensor) -> Tensor:
    """Place of each score in descending order along the last dimension, from 0."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
