# SPDX-License-Identifier: Apache-2.0
"""The tensors that ``LeanDecoder`` runs on, taken from a transformers model without copying it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_FAMILY = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
_ROPE = frozenset({"default", "dynamic", "linear", "llama3", "longrope", "yarn"})
"""Rotary embeddings that are one table up to ``checkpoint.max_positions``."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer's weights; projections that read the same input are stacked."""

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
        and config.rope_parameters["rope_type"] in _ROPE
        and all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    )


def layer_weights(layer: Any, heads: int, kv_heads: int) -> LayerWeights:
    """Collect one layer's weights, stacking what the model keeps apart.

    A stack becomes the storage of the module's own parameters: it costs no memory, and the module's
    forward goes on working.
    """
    attention, mlp = layer.self_attn, layer.mlp
    if hasattr(attention, "qkv_proj"):  # Phi-3 has them stacked
        qkv, gate_up = _stack(attention.qkv_proj), _stack(mlp.gate_up_proj)
    else:
        qkv = _stack(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = _stack(mlp.gate_proj, mlp.up_proj)
    qk_norm = None
    if hasattr(attention, "q_norm"):
        norms = (attention.q_norm.weight, heads), (attention.k_norm.weight, kv_heads)
        qk_norm = torch.cat([weight.detach().expand(count, -1) for weight, count in norms])
    return LayerWeights(
        layer.input_layernorm.weight.detach(),
        *qkv,
        qk_norm,
        *_stack(attention.o_proj),
        layer.post_attention_layernorm.weight.detach(),
        *gate_up,
        *_stack(mlp.down_proj),
    )


def rotary_tables(model: Any, positions: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine rows [positions, R] of the model's own rotary embedding.

    The minus sign of transformers' ``rotate_half`` is moved into the sine's first half, so that
    rotated x = x cos + roll(x, R / 2) sin.
    """
    index = torch.arange(positions, device=model.device)
    cos, sin = model.model.rotary_emb(model.model.embed_tokens.weight, position_ids=index[None])
    cos, sin = cos[0].contiguous(), sin[0].clone()
    sin[:, : sin.shape[-1] // 2].neg_()
    return cos, sin


def _stack(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of several projections of one input as if they were one."""
    bias = None if projections[0].bias is None else _share([p.bias for p in projections])
    return _share([p.weight for p in projections]), bias


def _share(parameters: Sequence[Tensor]) -> Tensor:
    """Stack parameters along rows and make the stack their storage."""
    if len(parameters) == 1:
        return parameters[0].detach()
    stacked = torch.cat([parameter.detach() for parameter in parameters])
    rows = [len(parameter) for parameter in parameters]
    for parameter, part in zip(parameters, stacked.split(rows), strict=True):
        parameter.data = part
    return stacked
