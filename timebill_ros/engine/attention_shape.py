# SPDX-License-Identifier: Apache-2.0
"""The shape of a model's attention, which everything over its cache shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


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
