# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention over the cache: its shape, itself, and what a prompt's end looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

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
        dtype: of the cache.
        device: of the cache.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @classmethod
    def of(cls, model: PreTrainedModel) -> AttentionShape:
        """Read the shape from a loaded model."""
        return cls.told_by(model.config, model.dtype, model.device)

    @classmethod
    def told_by(
        cls, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
    ) -> AttentionShape:
        """The shape that a model of this configuration has."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=dtype,
            device=device,
        )


class ObservationWindow:
    """What the last prompt tokens attend to, in every layer: what SnapKV observes.

    Their attention is computed anyway. Computed here, in full, it also tells which tokens they look
    at: no eviction has to multiply their queries with all keys again. Observed where attention
    runs, so it works for every model, without patching one.

    Attributes:
        size: tokens of the window.
    """

    def __init__(self, layers: int, size: int) -> None:
        self.size = size
        self._seen: list[Tensor | None] = [None] * layers

    @property
    def complete(self) -> bool:
        """Whether every layer has been observed."""
        return all(seen is not None for seen in self._seen)

    def reset(self) -> None:
        """Forget what was observed."""
        self._seen = [None] * len(self._seen)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """``grouped_attention``, observing the last ``size`` tokens (all where there are fewer)."""
        before = max(0, query.shape[2] - self.size)
        out, self._seen[layer] = observed_attention(query[0, :, before:], key[0], value[0], scale)
        if not before:
            return out[None]
        end = key.shape[2] - out.shape[1]
        first = grouped_attention(query[:, :, :before], key[:, :, :end], value[:, :, :end], scale)
        return torch.cat((first, out[None]), dim=2)

    def attention(self, layer: int) -> Tensor:
        """Mean attention to the tokens before the window, [KV, N_x - w], float32.

        Raises:
            RuntimeError: the layer has not been observed.
        """
        seen = self._seen[layer]
        if seen is None:
            raise RuntimeError(f"layer {layer} has not been observed")
        return seen


def observed_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention of the last w tokens, and what they attend to of the tokens before them.

    As fast as the fused operator, which does not tell the weights: both are bound by the products
    with the keys and values.

    Args:
        query: rotated, [H, w, D].
        key: rotated, of the whole prompt, [KV, N_x, D].
        value: of the whole prompt, [KV, N_x, D].
        scale: factor on the dot products.

    Returns:
        The output [H, w, D], and the softmax attention averaged over the window and over the query
        heads that share a key head, [KV, N_x - w], float32.
    """
    heads, window, head_dim = query.shape
    kv_heads, prompt, _ = key.shape
    grouped = (query * scale).reshape(kv_heads, -1, head_dim)  # [KV, G * w, D]
    weights = torch.matmul(grouped, key.transpose(1, 2)).float()
    future = torch.ones(window, window, dtype=torch.bool, device=key.device).triu_(1)
    in_window = weights.view(kv_heads, -1, window, prompt)[..., prompt - window :]
    in_window.masked_fill_(future, float("-inf"))
    torch.softmax(weights, -1, out=weights)
    rows = weights.shape[1]
    mean = torch.matmul(weights.new_full((kv_heads, 1, rows), 1.0 / rows), weights)
    out = torch.matmul(weights.to(value.dtype), value).view(heads, window, head_dim)
    return out, mean[:, 0, : prompt - window]


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
        groups = query.reshape(1, key.shape[1], -1, head_dim)
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
    observation: ObservationWindow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UnsupportedModel(type(module).__name__, f"its attention uses {name}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if observation is None:
        out = grouped_attention(query, key, value, scale)
    else:
        layer: int = module.layer_idx  # type: ignore[assignment]
        out = observation.attend(layer, query, key, value, scale)
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
