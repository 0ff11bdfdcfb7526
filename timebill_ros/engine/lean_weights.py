# SPDX-License-Identifier: Apache-2.0
"""What ``LeanDecoder`` runs on, taken from a transformers model without copying it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

_FAMILY = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
_ROPE = frozenset({"default", "dynamic", "linear", "llama3", "longrope", "yarn"})
"""Rotary embeddings that are one table up to ``checkpoint.max_positions``."""


class Projection(Protocol):
    """A linear layer with its bias, however its weight is kept."""

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add the projection of one vector [in] to ``total`` [out], in place."""
        total += self(x)


MakeProjection = Callable[[Tensor, Tensor | None], Projection]
"""Makes one of a weight [out, in] and a bias [out]: keeps them, or makes its own of them."""


@dataclass(frozen=True, slots=True)
class FullProjection(Projection):
    """The weight as the checkpoint has it, without a copy."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """See ``Projection``."""
        if x.dim() == 1 and (parts := _parts(self.weight)) > 1:
            out = torch.bmm(x.expand(parts, 1, -1), _in_parts(self.weight, parts)).view(-1)
            return out if self.bias is None else out.add_(self.bias)
        return F.linear(x, self.weight, self.bias)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See ``Projection``."""
        if (parts := _parts(self.weight)) > 1:
            out = total.view(parts, 1, -1)
            out.baddbmm_(x.expand(parts, 1, -1), _in_parts(self.weight, parts))
        elif total.dtype == torch.float32:
            total.addmv_(self.weight, x)
        else:  # narrower types have a much faster kernel behind linear than behind addmv
            total += F.linear(x, self.weight)
        if self.bias is not None:
            total += self.bias


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer's weights; projections that read the same input are stacked."""

    input_norm: Tensor  # [h]
    qkv: Projection  # h -> (H + 2 KV) D
    qk_norm: Tensor | None  # [H + KV, D], Qwen3
    out: Projection  # H D -> h
    mlp_norm: Tensor  # [h]
    gate_up: Projection  # h -> 2 f
    down: Projection  # f -> h


def _parts(weight: Tensor) -> int:
    """How many threads share a product with one vector.

    MKL's own product of a float32 matrix and a vector runs on one thread, whatever is set: on two,
    a batch of two halves takes 5.2 ms where it takes 9.9 (113 MB).
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return 1
    threads = torch.get_num_threads()
    return threads if len(weight) % threads == 0 else 1


def _in_parts(weight: Tensor, parts: int) -> Tensor:
    """A weight [out, in] as a batch [parts, in, out / parts]; a view."""
    return weight.view(parts, -1, weight.shape[1]).transpose(1, 2)


def supports(model: PreTrainedModel) -> bool:
    """Whether the model computes exactly what ``LeanDecoder`` does."""
    config = model.config
    return (
        config.model_type in _FAMILY
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _ROPE
        and all(type(m) is nn.Linear for m in model.modules() if isinstance(m, nn.Linear))
    )


def layer_weights(
    layer: Any, heads: int, kv_heads: int, make: MakeProjection = FullProjection
) -> LayerWeights:
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
        make(*qkv),
        qk_norm,
        make(*_stack(attention.o_proj)),
        layer.post_attention_layernorm.weight.detach(),
        make(*gate_up),
        make(*_stack(mlp.down_proj)),
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
