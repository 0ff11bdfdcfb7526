# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention over the cache, and the observation window's queries."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from timebill_ros.engine.errors import UnsupportedModel

IMPLEMENTATION = "timebill"
"""Name under which transformers' modules find this attention."""

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class QueryWindow:
    """The last prompt queries of every layer, rotated and scaled: what SnapKV observes.

    Recorded where attention runs, so it works for every model, without patching one.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_dim: int,
        window: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._queries = torch.empty((layers, heads, window, head_dim), dtype=dtype, device=device)
        self._filled = [0] * layers

    @property
    def complete(self) -> bool:
        """Whether every layer has been recorded."""
        return all(self._filled)

    def reset(self) -> None:
        """Forget the recorded queries."""
        self._filled = [0] * len(self._filled)

    def record(self, layer: int, queries: Tensor, scale: float) -> None:
        """Keep the last ``window`` of queries [H, n, D] (all of them when n is smaller)."""
        count = min(queries.shape[1], self._queries.shape[2])
        torch.mul(queries[:, -count:], scale, out=self._queries[layer, :, :count])
        self._filled[layer] = count

    def queries(self, layer: int) -> Tensor:
        """Recorded queries of one layer, [H, min(window, N_x), D]."""
        return self._queries[layer, :, : self._filled[layer]]


def causal_mask(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive mask [queries, keys] under which the last query sees every key.

    None where no mask is needed: one query, or as many queries as keys (plain causal attention).
    """
    if queries in (1, keys):
        return None
    mask = torch.zeros((queries, keys), dtype=dtype, device=device)
    mask[:, keys - queries :] = torch.full(
        (queries, queries), float("-inf"), dtype=dtype, device=device
    ).triu_(1)
    return mask


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Causal attention of query [1, H, n, D] onto key, value [1, KV, L, D] -> [1, H, n, D].

    Query head h reads key head h // (H / KV); keys and values are never repeated in memory.
    ``mask`` comes from ``causal_mask(n, L)``.
    """
    _, heads, count, head_dim = query.shape
    if count == 1:
        # One query attends everywhere: a group's heads stand as queries of their key head.
        groups = query.view(1, key.shape[1], -1, head_dim)
        out = F.scaled_dot_product_attention(groups, key, value, scale=scale)
        return out.view(1, heads, 1, head_dim)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    query_window: QueryWindow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UnsupportedModel(type(module).__name__, f"its attention uses {name}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query_window is not None:
        query_window.record(module.layer_idx, query[0], scale)  # type: ignore[arg-type]
    out = grouped_attention(query, key, value, attention_mask, scale)
    return out.transpose(1, 2), None


def _mask_function(
    *, q_length: int, kv_length: int, dtype: torch.dtype, device: torch.device, **_: Any
) -> Tensor | None:
    # Batches, padding and windows are not looked at: the engine runs one unpadded sequence, and
    # ``checkpoint`` refuses models with other than full attention.
    return causal_mask(q_length, kv_length, dtype, device)


AttentionInterface.register(IMPLEMENTATION, _attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, _mask_function)
