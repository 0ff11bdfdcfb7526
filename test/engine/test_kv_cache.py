# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.kv_cache import KVCache, transformers_view

LAYERS, HEADS, DIM = 2, 2, 4


def filled(tokens, capacity=16):
    """A cache of recognisable rows, and a copy of them [layers, 2, KV, tokens, D]."""
    shape = AttentionShape(layers=LAYERS, heads=HEADS, kv_heads=HEADS, head_dim=DIM)
    cache = KVCache(shape, capacity)
    rows = torch.arange(LAYERS * 2 * HEADS * tokens * DIM, dtype=torch.float32)
    rows = rows.view(LAYERS, 2, HEADS, tokens, DIM)
    for layer in range(LAYERS):
        cache.append(layer, rows[layer])
    cache.advance(tokens)
    return cache, rows


def test_append_returns_all_rows_without_copying():
    cache, rows = filled(5)
    new = torch.full((2, HEADS, 2, DIM), -1.0)
    seen = cache.append(1, new)
    assert torch.equal(seen[:, :, :5], rows[1])
    assert torch.equal(seen[:, :, 5:], new)
    assert seen.data_ptr() == cache.buffer[1].data_ptr()
    assert cache.length == 5, "tokens count once every layer has them"


def test_compact_keeps_rows_per_head_and_moves_the_tail_up():
    cache, rows = filled(10)
    kept = [torch.tensor([[0, 3], [1, 5]]), torch.tensor([[2, 4], [0, 6]])]
    cache.compact(kept, end=7)
    assert (cache.length, cache.position) == (5, 10)
    for layer in range(LAYERS):
        for head in range(HEADS):
            expected = rows[layer, :, head][:, [*kept[layer][head].tolist(), 7, 8, 9]]
            assert torch.equal(cache.buffer[layer, :, head, :5], expected)


def test_a_tail_longer_than_the_gap_survives_the_move():
    cache, rows = filled(12)
    cache.compact([torch.tensor([[0, 2], [0, 2]])] * LAYERS, end=3)
    assert torch.equal(cache.buffer[:, :, :, 2:11], rows[:, :, :, 3:])


def test_reset_keeps_the_memory():
    cache, _ = filled(4)
    address = cache.buffer.data_ptr()
    cache.reset()
    assert (cache.length, cache.position, cache.buffer.data_ptr()) == (0, 0, address)


def test_transformers_see_and_write_the_same_rows():
    cache, rows = filled(4)
    past = transformers_view(cache)
    key = torch.full((1, HEADS, 1, DIM), 7.0)
    keys, values = past.update(key, -key, 1)
    assert torch.equal(keys[0, :, :4], rows[1, 0])
    assert torch.equal(cache.buffer[1, 0, :, 4], key[0, :, 0])
    assert torch.equal(values[0, :, 4], -key[0, :, 0])
    assert past.get_seq_length() == 4
    assert past.get_mask_sizes(3, 0) == (7, 0)
