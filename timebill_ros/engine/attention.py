# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention over the cache: its shape, itself, the observation window's queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from timebill_ros.engine.errors import UnsupportedModel

IMPLEMENTATION = "timebill"
"""Name under which transformers' modules find this attention."""

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class AttentionShape:
    """Sizes, type and place of a model's queries, keys and values.

    Attributes:
        layers: decoder layers.
        heads: query heads, H; a multiple of ``kv_heads``.
        kv_heads: key-value heads, KV.
        head_dim: size of a head, D.
        dtype: of the cache and of the recorded queries.
        device: of the cache and of the recorded queries.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @classmethod
    def of(cls, model: PreTrainedModel) -> AttentionShape:
        """Read the shape from a model's configuration."""
        config = model.config
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=model.dtype,
            device=model.device,
        )


class QueryWindow:
    """The last prompt queries of every layer, rotated and scaled: what SnapKV observes.

    Recorded where attention runs, so it works for every model, without patching one.
    """

    def __init__(self, shape: AttentionShape, window: int) -> None:
        self._queries = torch.empty(
            (shape.layers, shape.heads, window, shape.head_dim),
            dtype=shape.dtype,
            device=shape.device,
        )
        self._filled = [0] * shape.layers

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


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of the last n tokens onto all L, each onto itself and what is before it.

    Query head h reads key head h // (H / KV); keys and values are never repeated in memory.

    Args:
        query: [1, H, n, D].
        key: [1, KV, L, D], those of the n tokens last.
        value: [1, KV, L, D], likewise.
        scale: factor on the dot products.

    Returns:
        [1, H, n, D].
    """
    _, heads, count, head_dim = query.shape
    if count == 1:
        # One query attends everywhere: a group's heads stand as queries of their key head.
        groups = query.view(1, key.shape[1], -1, head_dim)
        out = F.scaled_dot_product_attention(groups, key, value, scale=scale)
        return out.view(1, heads, 1, head_dim)
    if count == key.shape[2]:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
    chunk_attention = _joined_attention if query.device.type == "cpu" else _masked_attention
    return chunk_attention(query, key, value, scale)


def _masked_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """A chunk's attention under a mask."""
    count, keys = query.shape[2], key.shape[2]
    mask = torch.ones(count, keys, dtype=torch.bool, device=query.device).tril_(keys - count)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
    )


def _joined_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """A chunk's attention onto the past and within itself, joined by their softmax sums.

    On CPU a mask costs 15 % of the attention's time, although it has something to hide in the last
    n of L columns only. Neither part needs one; what joins them is the log-sum-exp, which only the
    operator behind ``scaled_dot_product_attention`` returns.
    """
    past = key.shape[2] - query.shape[2]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    within, within_sum = flash(query, key[:, :, past:], value[:, :, past:], 0.0, True, scale=scale)
    before, before_sum = flash(query, key[:, :, :past], value[:, :, :past], 0.0, False, scale=scale)
    share = torch.sigmoid(before_sum - within_sum).to(query.dtype)  # [1, H, n], of the past
    joined: Tensor = within.lerp_(before, share[..., None])
    return joined


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001, transformers passes it by name
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
    out = grouped_attention(query, key, value, scale)
    return out.transpose(1, 2), None


# No mask function goes with it: the attention itself is causal, over one unpadded sequence, and
# ``checkpoint`` refuses models in which a layer's attention is anything else.
AttentionInterface.register(IMPLEMENTATION, _attention_forward)


class HiddenStates:
    """What the model has made of the latest token, after some of its layers.

    A length predictor may read it: at the prompt's end it holds what the answer will be about, and
    it costs nothing beside the prefill.

    Args:
        layers: numbers of layers, counted from 1; the last one's state is that after the final
            norm, as transformers' ``hidden_states`` has it.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._latest: dict[int, Tensor] = {}

    def record(self, layer: int, x: Tensor) -> None:
        """Keep the residual stream of one token, or of one each of n sequences, [n, h] or [h].

        ``layer`` counts from 0, as where layers run.
        """
        if layer + 1 in self.layers:
            self._latest[layer + 1] = x.reshape(-1, x.shape[-1]).clone()

    def states(self) -> Tensor:
        """Of the latest token of each of n sequences, float32 [n, layers, h]."""
        return torch.stack([self._latest[layer] for layer in self.layers], dim=1).float()
