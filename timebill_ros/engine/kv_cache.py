# SPDX-License-Identifier: Apache-2.0
"""The key-value cache of one request, and the copies that outlive it.

Its memory is allocated once. New tokens are written into it, and an eviction moves what stays to
the front.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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

    def drop(self, tokens: int) -> None:
        """Forget the latest tokens, as if they had not been run."""
        self.length -= tokens
        self.position -= tokens

    def restore(self, whole: KVCache) -> None:
        """Hold what a ``copy`` of this cache holds."""
        self.buffer[:, :, :, : whole.length] = whole.buffer[:, :, :, : whole.length]
        self.length, self.position = whole.length, whole.position

    def rows(self, layer: int) -> Tensor:
        """Cached keys and values of one layer, [2, KV, length, D], a view."""
        return self.buffer[layer, :, :, : self.length]

    def compact(self, kept: Sequence[Tensor], end: int) -> None:
        """Keep only the rows in ``kept`` of the first ``end`` tokens; move the rest up to them.

        ``kept[layer]`` is [KV, m], ascending token indices below ``end``, m equal in all layers.
        Each layer's keys, then its values are gathered with the rest into one scratch buffer and
        copied back: the memory that it takes is touched once, and stays in the processor's cache.
        """
        kv_heads, rows_per_head, head_dim = self.buffer.shape[2:]
        device = self.buffer.device
        rest = torch.arange(end, self.length, device=device).expand(kv_heads, -1)
        length = kept[0].shape[1] + self.length - end
        heads = rows_per_head * torch.arange(kv_heads, device=device)[:, None]
        gathered = self.buffer.new_empty((kv_heads, length, head_dim))
        for layer, indices in enumerate(kept):
            # Whole rows of a flat [KV * capacity, D] view: several times faster than ``gather`` on
            # CPU, which moves single elements.
            rows = (torch.cat((indices, rest), -1) + heads).flatten()
            for half in self.buffer[layer]:
                torch.index_select(
                    half.view(-1, head_dim), 0, rows, out=gathered.view(-1, head_dim)
                )
                half[:, :length] = gathered
        self.length = length


PREFIX_BLOCK = 64
"""Tokens whose keys and values are kept together for later prompts."""

_BlockKey = tuple[int, tuple[int, ...]]


class _Block(NamedTuple):
    """Where a block is kept, and the number by which the blocks that follow it name it."""

    slot: int
    number: int


class KeptPrefixes:
    """Keys and values of earlier prompts, for prompts that start with the same tokens.

    They are copied out of the cache after a prefill and back before another: what a request does to
    the cache, evictions above all, never reaches them. Whole blocks of tokens are kept, each under
    its tokens and the block that it follows, so that what prompts have in common is kept once. The
    least recently used go first, of one prompt the last.
    """

    def __init__(self, cache: KVCache, tokens: int) -> None:
        """Keep up to ``tokens`` tokens of ``cache``, in memory that is allocated here; 0: none."""
        layers, two, kv_heads, _, head_dim = cache.buffer.shape
        self._cache = cache
        self._slots = cache.buffer.new_empty(
            (tokens // PREFIX_BLOCK, layers, two, kv_heads, PREFIX_BLOCK, head_dim)
        )
        self._free = list(range(len(self._slots)))
        self._blocks: OrderedDict[_BlockKey, _Block] = OrderedDict()  # the last used last
        self._numbered = 0

    def common(self, prompt_ids: Sequence[int]) -> int:
        """How many of the prompt's first tokens are kept."""
        return PREFIX_BLOCK * len(self._known(prompt_ids))

    def restore(self, prompt_ids: Sequence[int], tokens: int) -> None:
        """Have the first ``tokens`` of the prompt, which are kept, cached instead of anything else.

        Raises:
            ValueError: so many are not kept.
        """
        known = self._known(prompt_ids)
        if tokens > PREFIX_BLOCK * len(known):
            raise ValueError(f"{tokens} tokens of the prompt are not kept")
        for index, key in enumerate(known):
            start, end = PREFIX_BLOCK * index, min(tokens, PREFIX_BLOCK * (index + 1))
            if start < end:
                slot = self._slots[self._blocks[key].slot]
                self._cache.buffer[:, :, :, start:end] = slot[:, :, :, : end - start]
        self._cache.reset()
        self._cache.advance(tokens)

    def keep(self, prompt_ids: Sequence[int]) -> None:
        """Keep the prompt, all of which is cached and nothing evicted; its start if it is long."""
        known = self._known(prompt_ids)
        self._touch(known)  # so that none of them makes room for those that follow it
        last = self._blocks[known[-1]].number if known else 0
        for index, tokens in enumerate(_whole_blocks(prompt_ids)):
            if index < len(known):
                continue
            if index == len(self._slots):
                break
            slot = self._free.pop() if self._free else self._blocks.popitem(last=False)[1].slot
            start = PREFIX_BLOCK * index
            self._slots[slot] = self._cache.buffer[:, :, :, start : start + PREFIX_BLOCK]
            self._numbered += 1
            key = (last, tokens)
            last = self._numbered
            self._blocks[key] = _Block(slot, last)
            known.append(key)
        self._touch(known)

    def _known(self, prompt_ids: Sequence[int]) -> list[_BlockKey]:
        """The kept blocks that the prompt starts with."""
        known, last = [], 0
        for tokens in _whole_blocks(prompt_ids):
            block = self._blocks.get((last, tokens))
            if block is None:
                break
            known.append((last, tokens))
            last = block.number
        return known

    def _touch(self, path: Sequence[_BlockKey]) -> None:
        """These were used now; a block is never older than those that follow it."""
        for key in reversed(path):
            self._blocks.move_to_end(key)


def _whole_blocks(prompt_ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(prompt_ids) - PREFIX_BLOCK + 1, PREFIX_BLOCK):
        yield tuple(prompt_ids[start : start + PREFIX_BLOCK])


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
        """Append keys and values of n tokens, [1, KV, n, D] each.

        Returns:
            The keys and values of all cached tokens, [1, KV, length + n, D] each.
        """
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
