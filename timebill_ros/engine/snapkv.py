# SPDX-License-Identifier: Apache-2.0
"""SnapKV: which prompt tokens the end of the prompt looks at (arXiv 2404.14469)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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


def keep_indices(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of each head, [KV, n] -> [KV, count], ascending."""
    return scores.topk(count, dim=-1, sorted=False).indices.sort(-1).values
