# SPDX-License-Identifier: Apache-2.0
"""Preallocated key-value cache: written in place, compacted in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from timebill_ros.engine.attention import AttentionShape


class KVCache:
    """Keys and values of one sequence in one buffer, allocated once.

    ``length`` counts the cached tokens (the same for every layer and head), ``position`` the tokens
    that the sequence has had. They are equal until tokens are evicted: keys stay rotated to the
    position at which they were computed, and new tokens go on counting from ``position``.
    """

    def __init__(self, shape: AttentionShape, capacity: int) -> None:
        # [layers, key|value, KV, capacity, D]: one token's keys and values are written by one copy.
        self.buffer = torch.empty(
            (shape.layers, 2, shape.kv_heads, capacity, shape.head_dim),
            dtype=shape.dtype,
            device=shape.device,
        )
        self._of_layer = list(self.buffer)  # taking a view costs a microsecond per layer and step
        self.length = 0
        self.position = 0
        self._filled = False

    @staticmethod
    def bytes_per_token(shape: AttentionShape) -> int:
        """Memory of one token's keys and values in all layers."""
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.dtype.itemsize

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.buffer.shape[3]

    @property
    def layers(self) -> int:
        """Layers that the cache serves."""
        return self.buffer.shape[0]

    def copy(self, capacity: int) -> KVCache:
        """The same sequence in memory of its own, with room for ``capacity`` tokens."""
        layers, _, kv_heads, _, head_dim = self.buffer.shape
        shape = AttentionShape(
            layers, kv_heads, kv_heads, head_dim, self.buffer.dtype, self.buffer.device
        )
        copied = KVCache(shape, capacity)
        copied.buffer[:, :, :, : self.length] = self.buffer[:, :, :, : self.length]
        copied.length, copied.position = self.length, self.position
        return copied

    def reset(self) -> None:
        """Forget the sequence; the memory stays."""
        self.length = 0
        self.position = 0

    def pretend(self, tokens: int) -> None:
        """Count so many tokens as cached; their keys and values are some numbers, for measuring.

        The whole buffer is written the first time: memory that never was reads faster than any
        (Linux maps all of it to one page of zeros), and may hold NaN.
        """
        if not self._filled:
            token = torch.randn(self.buffer.shape[-1], device=self.buffer.device)
            self.buffer.copy_(token.to(self.buffer.dtype).expand_as(self.buffer))
            self._filled = True
        self.length = tokens
        self.position = tokens

    def append(self, layer: int, new: Tensor) -> Tensor:
        """Write the next tokens' keys and values of one layer behind the cached ones.

        ``new`` is [2, KV, n, D]; the result [2, KV, length + n, D] is a view of the buffer. The
        tokens count only once ``advance(n)`` is called, after the last layer.
        """
        cached: Tensor = self._of_layer[layer][:, :, : self.length + new.shape[2]]
        cached[:, :, self.length :] = new
        return cached

    def advance(self, tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += tokens
        self.position += tokens

    def rows(self, layer: int) -> Tensor:
        """Cached keys and values of one layer, [2, KV, length, D], a view."""
        return self.buffer[layer, :, :, : self.length]

    def compact(self, kept: Sequence[Tensor], end: int) -> None:
        """Keep only the rows in ``kept`` of the first ``end`` tokens; move the rest up to them.

        ``kept[layer]`` is [KV, m], ascending token indices below ``end``, m equal in all layers.
        Each layer's keys, then its values are gathered into one scratch buffer and copied back: the
        memory that it takes is touched once, and stays in the processor's cache.
        """
        kv_heads, rows_per_head, head_dim = self.buffer.shape[2:]
        kept_tokens = kept[0].shape[1]
        tail = self.length - end
        heads = torch.arange(kv_heads, device=self.buffer.device)[:, None]
        gathered = self.buffer.new_empty((kv_heads * kept_tokens, head_dim))
        for layer, indices in enumerate(kept):
            # Whole rows of a flat [KV * capacity, D] view: several times faster than ``gather`` on
            # CPU, which moves single elements.
            rows = (indices + heads * rows_per_head).flatten()
            for half in self.buffer[layer]:
                torch.index_select(half.view(-1, head_dim), 0, rows, out=gathered)
                half[:, :kept_tokens] = gathered.view(kv_heads, kept_tokens, head_dim)
                # The clone: source and target may overlap.
                half[:, kept_tokens : kept_tokens + tail] = half[:, end : end + tail].clone()
        self.length = kept_tokens + tail


class _CacheLayer(CacheLayerMixin):
    """One layer of a ``KVCache`` as transformers' modules see it."""

    is_sliding = False

    def __init__(self, cache: KVCache, layer: int) -> None:
        super().__init__()
        self._cache = cache
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The buffer exists already."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [1, KV, n, D]; return all cached ones [1, KV, length + n, D]."""
        cached = self._cache.append(self._layer, torch.cat((key_states, value_states)))
        return cached[0, None], cached[1, None]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the mask spans, and the index of the first."""
        return self._cache.length + query_length, 0

    def get_seq_length(self) -> int:
        """Cached tokens."""
        return self._cache.length

    def get_max_length(self) -> int:
        """Tokens that fit."""
        return self._cache.capacity


def transformers_view(cache: KVCache) -> Cache:
    """``past_key_values`` for a transformers model that reads and writes ``cache``.

    The caller counts the tokens with ``cache.advance`` after the model's forward.
    """
    return Cache(layers=[_CacheLayer(cache, layer) for layer in range(cache.layers)])
