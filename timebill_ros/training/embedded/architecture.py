# SPDX-License-Identifier: Apache-2.0
"""The embedded model's shape, and its forward pass for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

MAX_CONTEXT = 16384
# Half of each head's rotary pairs then turn by less than a radian within 16,384 tokens, so that
# content can be matched at any distance, while the other half tells neighbours apart.
ROPE_THETA = 1e10


@dataclass(frozen=True)
class EmbeddedShape:
    """The sizes of an embedded model; its heads are of 64."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int


SHAPES = {
    "embedded": EmbeddedShape(hidden=216, feed_forward=256, layers=3, heads=4),
    "embedded-small": EmbeddedShape(hidden=152, feed_forward=128, layers=2, heads=2),
}
"""By the name of the model: 1.9 M and 0.8 M weights."""


def build_model(
    tokenizer: PreTrainedTokenizerFast, shape: EmbeddedShape = SHAPES["embedded"]
) -> Qwen2ForCausalLM:
    """Build the untrained model.

    Every query head has its own key-value head: the cache is then large beside the weights, as it
    is in a large model, and evicting it buys time.
    """
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=64,  # type: ignore[call-arg]  # accepted, though not declared
            max_position_embeddings=MAX_CONTEXT,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def rotary_frequencies(config: Qwen2Config) -> Tensor:
    """Angle per position of each rotary pair, ``[head_dim / 2]``, fastest first."""
    size: int = config.head_dim
    return 1.0 / ROPE_THETA ** (torch.arange(0, size, 2) / size)


@dataclass(frozen=True)
class AttentionTargets:
    """Prompt positions that some tokens of the instruction should attend to.

    ``rows`` [batch, R] are positions of the attending tokens; ``weights`` [batch, R, length] their
    target attention, each row summing to 1, or to 0 for a row that does not count.
    """

    rows: Tensor
    weights: Tensor


def forward(
    model: Qwen2ForCausalLM,
    tokens: Tensor,
    positions: Tensor,
    targets: AttentionTargets | None = None,
    visible: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run causal attention over ``tokens`` [batch, length] at free, increasing ``positions``.

    ``visible`` [batch, 1, length, length] says which tokens (last axis) a token attends to; None
    stands for all up to itself. The model's own forward takes gaps in the positions for the seams
    of packed sequences, and does not give attention weights at these lengths. Returns the last
    hidden state [batch, length, hidden] and the mean Kullback-Leibler divergence from ``targets``
    over the heads of all layers but the first, whose heads look at neighbours only (0 without
    targets).
    """
    config = model.config
    angles = positions[..., None].float() * rotary_frequencies(config)
    angles = torch.cat([angles, angles], -1)[:, None]
    cos, sin = angles.cos(), angles.sin()
    x = model.model.embed_tokens(tokens)
    divergence = x.new_zeros(())
    for depth, layer in enumerate(model.model.layers):
        query, key, value = _project(layer.self_attn, layer.input_layernorm(x), config.head_dim)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        if targets is not None and depth > 0:
            divergence = divergence + _divergence(query, key, targets)
        out = F.scaled_dot_product_attention(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            attn_mask=visible,
            is_causal=visible is None,
        )
        x = x + layer.self_attn.o_proj(out.transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.model.norm(x), divergence / (len(model.model.layers) - 1)


def _project(attention: Qwen2Attention, x: Tensor, head_dim: int) -> list[Tensor]:
    """Queries, keys and values, each [batch, heads, length, head_dim]."""
    return [
        projection(x).unflatten(-1, (-1, head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _divergence(query: Tensor, key: Tensor, targets: AttentionTargets) -> Tensor:
    """Mean KL(target || attention) over counting rows and heads."""
    heads, length, size = key.shape[1:]
    rows = targets.rows[:, None, :, None].expand(-1, heads, -1, size)
    scores = (query.gather(2, rows) @ key.transpose(2, 3) / size**0.5).float()
    future = torch.arange(length) > targets.rows[:, None, :, None]
    attention = scores.masked_fill(future, -1e30).log_softmax(-1)
    wanted = targets.weights[:, None]
    surprise = torch.xlogy(wanted, wanted) - wanted * attention.clamp_min(-60.0)
    total: Tensor = surprise.sum() / (targets.weights.sum() * heads).clamp_min(1.0)
    return total
