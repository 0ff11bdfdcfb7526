# SPDX-License-Identifier: Apache-2.0
"""What the end of the prompt looks at: its tokens (SnapKV), or whole passages (ChunkKV)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt


@dataclass(frozen=True)
class SnapKV(EvictionMethod):
    """Keeps the tokens that the observation window attends to (Li et al., arXiv 2404.14469).

    Attributes:
        kernel: width of the pooling that smooths the scores, odd.

    Raises:
        SettingError: ``kernel`` is even or below 1.
    """

    kernel: int = 5

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise SettingError("kernel", self.kernel, "odd and >= 1")

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """The window's attention, smoothed, [KV, N_x - w]: the paper's "voting"."""
        return window_scores(prompt.queries, prompt.keys, self.kernel)


def window_scores(queries: Tensor, keys: Tensor, kernel: int) -> Tensor:
    """Score the prompt tokens before the observation window.

    The softmax attention of the last w prompt queries, averaged over the window and over the query
    heads of a group, smoothed by average pooling (zeros beyond both ends count, as in SnapKV's
    code).

    Args:
        queries: rotated and scaled queries of the window, [H, w, D].
        keys: rotated keys of the whole prompt, [KV, N_x, D].
        kernel: width of the pooling, odd.

    Returns:
        [KV, N_x - w], float32.
    """
    _, window, head_dim = queries.shape
    kv_heads, prompt, _ = keys.shape
    grouped = queries.reshape(kv_heads, -1, head_dim)  # [KV, G * w, D]
    logits = torch.matmul(grouped, keys.transpose(1, 2)).float()
    logits = logits.view(kv_heads, -1, window, prompt)
    future = torch.ones(window, window, dtype=torch.bool, device=keys.device).triu_(1)
    logits[..., prompt - window :].masked_fill_(future, float("-inf"))
    attention = logits.softmax(-1)[..., : prompt - window].mean((1, 2))
    return F.avg_pool1d(attention, kernel, stride=1, padding=kernel // 2)


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
