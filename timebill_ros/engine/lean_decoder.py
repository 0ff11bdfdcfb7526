# SPDX-License-Identifier: Apache-2.0
"""The decoder family that most models share, over plain tensors.

RMSNorm, grouped-query attention with rotary positions, SwiGLU: Llama, Mistral, Qwen2, Qwen3, Phi-3.
Decoding is the hot loop, and for small models the modules' overhead (wrappers, keyword arguments, a
cache that grows by concatenation) costs more than their arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from timebill_ros.engine.attention import QueryWindow, causal_mask, grouped_attention
from timebill_ros.engine.kv_cache import KVCache

_FAMILY = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary tables that do not depend on how long the sequence has become."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one decoder layer; projections that read the same input are stacked."""

    input_norm: Tensor  # [h]
    qkv: Tensor  # [(H + 2 KV) D, h]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [H + KV, D], Qwen3
    out: Tensor  # [h, H D]
    out_bias: Tensor | None
    mlp_norm: Tensor  # [h]
    gate_up: Tensor  # [2 f, h]
    gate_up_bias: Tensor | None
    down: Tensor  # [h, f]
    down_bias: Tensor | None


def supports(model: PreTrainedModel) -> bool:
    """Whether the model computes exactly what ``LeanDecoder`` does."""
    config = model.config
    return (
        config.model_type in _FAMILY
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _STATIC_ROPE
        and all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    )


class LeanDecoder:
    """A decoder of the family above; see ``Decoder`` for the contract.

    The stacked weights become the storage of the modules' own parameters, so they cost no memory
    and the model's forward goes on working.

    Args:
        model: a model for which ``supports`` is true.
        cache: receives keys and values; its capacity bounds the positions.
    """

    def __init__(self, model: PreTrainedModel, cache: KVCache) -> None:
        config = model.config
        decoder = model.model
        attention = decoder.layers[0].self_attn
        self._cache = cache
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._head_dim = attention.head_dim
        self._scale = attention.scaling
        self._eps = config.rms_norm_eps
        self._embedding = decoder.embed_tokens.weight.detach()
        self._norm = decoder.norm.weight.detach()
        self._head = model.lm_head.weight.detach()
        self._layers = [self._take(layer) for layer in decoder.layers]
        positions = torch.arange(cache.capacity, device=self._embedding.device)
        cos, sin = decoder.rotary_emb(self._embedding, position_ids=positions[None])
        half = cos.shape[-1] // 2
        # x rotated = x cos + roll(x, half) sin, with the minus of rotate_half put into the sine.
        self._cos, self._sin = cos[0, :, None], sin[0, :, None].clone()  # [capacity, 1, R]
        self._sin[..., :half].neg_()

    def prefill(self, tokens: Tensor, queries: QueryWindow | None) -> Tensor:
        """See ``Decoder.prefill``."""
        return self._forward(F.embedding(tokens, self._embedding), queries)

    def step(self, token: int) -> Tensor:
        """See ``Decoder.step``."""
        return self._forward(self._embedding[token : token + 1], None)

    def _forward(self, x: Tensor, queries: QueryWindow | None) -> Tensor:
        """Run embedded tokens x [n, h] through all layers; logits [V] of the last."""
        count, hidden = x.shape
        cache, heads, eps = self._cache, self._heads, self._eps
        mask = causal_mask(count, cache.length + count, x.dtype, x.device)
        cos = self._cos[cache.position : cache.position + count]
        sin = self._sin[cache.position : cache.position + count]
        for index, layer in enumerate(self._layers):
            y = F.rms_norm(x, (hidden,), layer.input_norm, eps)
            qkv = F.linear(y, layer.qkv, layer.qkv_bias).view(count, -1, self._head_dim)
            self._rotate(qkv[:, : heads + self._kv_heads], cos, sin, layer.qk_norm)
            new = qkv[:, heads:].view(count, 2, self._kv_heads, self._head_dim)
            cached = cache.append(index, new.permute(1, 2, 0, 3))
            query = qkv[:, :heads].transpose(0, 1)  # [H, n, D]
            if queries is not None:
                queries.record(index, query, self._scale)
            out = grouped_attention(
                query[None], cached[0, None], cached[1, None], mask, self._scale
            )
            out = out[0].transpose(0, 1).reshape(count, -1)
            x = x + F.linear(out, layer.out, layer.out_bias)
            y = F.rms_norm(x, (hidden,), layer.mlp_norm, eps)
            gate, up = F.linear(y, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate).mul_(up), layer.down, layer.down_bias)
        cache.advance(count)
        return F.linear(F.rms_norm(x[-1], (hidden,), self._norm, eps), self._head)

    def _rotate(self, qk: Tensor, cos: Tensor, sin: Tensor, norm: Tensor | None) -> None:
        """Normalise (Qwen3) and rotate queries and keys [n, H + KV, D] in place."""
        if norm is not None:
            qk.copy_(F.rms_norm(qk, qk.shape[-1:], None, self._eps).mul_(norm))
        rotary = qk[..., : cos.shape[-1]]  # Phi-3 may rotate a part of each head only
        rolled = rotary.roll(cos.shape[-1] // 2, dims=-1)
        rotary.mul_(cos).addcmul_(rolled, sin)

    def _take(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        if hasattr(attention, "qkv_proj"):  # Phi-3 stores them stacked
            qkv, gate_up = _stack(attention.qkv_proj), _stack(mlp.gate_up_proj)
        else:
            qkv = _stack(attention.q_proj, attention.k_proj, attention.v_proj)
            gate_up = _stack(mlp.gate_proj, mlp.up_proj)
        qk_norm = None
        if hasattr(attention, "q_norm"):
            qk_norm = torch.cat(
                (
                    attention.q_norm.weight.detach().expand(self._heads, -1),
                    attention.k_norm.weight.detach().expand(self._kv_heads, -1),
                )
            )
        return _Layer(
            layer.input_layernorm.weight.detach(),
            *qkv,
            qk_norm,
            *_stack(attention.o_proj),
            layer.post_attention_layernorm.weight.detach(),
            *gate_up,
            *_stack(mlp.down_proj),
        )


def _stack(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Stack projections' weights and biases, and make the stack their storage."""
    return _stack_parameter(projections, "weight"), (
        None if projections[0].bias is None else _stack_parameter(projections, "bias")
    )


def _stack_parameter(projections: tuple[nn.Linear, ...], name: str) -> Tensor:
    parameters: list[nn.Parameter] = [getattr(projection, name) for projection in projections]
    if len(parameters) == 1:
        return parameters[0].detach()
    stacked = torch.cat([parameter.detach() for parameter in parameters])
    rows = [len(parameter) for parameter in parameters]
    for parameter, part in zip(parameters, stacked.split(rows), strict=True):
        parameter.data = part
    return stacked
