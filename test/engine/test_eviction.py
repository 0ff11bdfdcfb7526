# SPDX-License-Identifier: Apache-2.0
"""Eviction against the stock model: its dense attention, and its cache, gathered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from timebill_ros.budget.errors import SettingError

WINDOW, KERNEL, PROMPT = 8, 5, 75


def prefilled(engine, prompt, max_tokens=30):
    engine.begin(prompt, max_tokens, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    return engine


def dense_scores(stock, prompt):
    """SnapKV's scores from the attention matrices of a forward over the whole prompt."""
    with torch.no_grad():
        attentions = stock(torch.tensor([prompt]), output_attentions=True).attentions
    kv_heads = stock.config.num_key_value_heads
    scores = []
    for attention in attentions:  # [1, H, N_x, N_x]
        rows = attention[0, :, -WINDOW:, :-WINDOW].unflatten(0, (kv_heads, -1))
        scores.append(F.avg_pool1d(rows.mean((1, 2)), KERNEL, 1, KERNEL // 2))
    return scores


def kept_positions(scores, kept_tokens, prompt_tokens):
    """Positions of one layer that stay, [KV, kept_tokens]."""
    best = [torch.argsort(row, descending=True)[: kept_tokens - WINDOW] for row in scores]
    window = torch.arange(prompt_tokens - WINDOW, prompt_tokens)
    return torch.stack([torch.cat((row.sort().values, window)) for row in best])


def decode_over_gathered_cache(stock, prompt, kept_tokens, steps):
    """Greedy response of the stock model whose cache holds only the positions that stay."""
    full = DynamicCache()
    with torch.no_grad():
        logits = stock(torch.tensor([prompt]), past_key_values=full).logits
    cache = DynamicCache()
    for index, scores in enumerate(dense_scores(stock, prompt)):
        rows = kept_positions(scores, kept_tokens, len(prompt))[None, :, :, None]
        layer = full.layers[index]
        rows = rows.expand(-1, -1, -1, layer.keys.shape[-1])
        cache.update(layer.keys.gather(2, rows), layer.values.gather(2, rows), index)
    response = [int(logits[0, -1].argmax())]
    for position in range(len(prompt), len(prompt) + steps):
        with torch.no_grad():
            logits = stock(
                torch.tensor([response[-1:]]),
                position_ids=torch.tensor([[position]]),
                past_key_values=cache,
            ).logits
        response.append(int(logits[0, -1].argmax()))
    return response


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
def test_scores_equal_dense_attention(family, lean, make_engine, stock_of, prompt_of):
    prompt = prompt_of(PROMPT)
    engine = prefilled(make_engine(family, lean=lean, window=WINDOW, kernel=KERNEL), prompt)
    for scores, dense in zip(
        engine.eviction.scores(), dense_scores(stock_of(family), prompt), strict=True
    ):
        torch.testing.assert_close(scores, dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("kept_tokens", [8, 9, 30, 74])
def test_decoding_goes_on_as_over_a_gathered_cache(
    family, lean, kept_tokens, make_engine, stock_of, prompt_of
):
    prompt = prompt_of(PROMPT)
    engine = prefilled(make_engine(family, lean=lean, window=WINDOW, kernel=KERNEL), prompt)
    engine.evict(kept_tokens)
    for _ in range(12):
        engine.step()
    expected = decode_over_gathered_cache(stock_of(family), prompt, kept_tokens, 12)
    assert engine.response_ids == expected


def test_the_cache_really_shrinks(make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT))
    engine.evict(20)
    assert (engine.cache.length, engine.cache.position) == (20, PROMPT)
    engine.step()
    assert (engine.cache.length, engine.cache.position) == (21, PROMPT + 1)


def test_keeping_everything_changes_nothing(make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT))
    before = engine.cache.buffer[:, :, :, :PROMPT].clone()
    engine.evict(PROMPT)
    assert torch.equal(engine.cache.buffer[:, :, :, :PROMPT], before)


def test_evictions_are_nested(make_engine, prompt_of):
    engine, prompt = make_engine(), prompt_of(PROMPT)
    prefilled(engine, prompt).evict(20)
    at_once = engine.cache.buffer[:, :, :, :20].clone()
    prefilled(engine, prompt).evict(50)
    engine.evict(33)
    engine.evict(20)
    assert torch.equal(engine.cache.buffer[:, :, :, :20], at_once)


def test_evicting_while_decoding_keeps_the_response(make_engine, prompt_of):
    engine, prompt = make_engine(), prompt_of(PROMPT)
    prefilled(engine, prompt).evict(20)
    kept = engine.cache.buffer[:, :, :, :20].clone()
    prefilled(engine, prompt)
    for _ in range(5):
        engine.step()
    response = engine.cache.buffer[:, :, :, PROMPT : PROMPT + 5].clone()
    engine.evict(20)
    assert engine.cache.length == 25
    assert torch.equal(engine.cache.buffer[:, :, :, :20], kept)
    assert torch.equal(engine.cache.buffer[:, :, :, 20:25], response)


def test_a_new_request_starts_from_a_whole_prompt(make_engine, prompt_of, stock_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT, seed=1))
    engine.evict(10)
    fresh = prefilled(engine, prompt_of(PROMPT)).eviction.scores()
    torch.testing.assert_close(
        fresh, dense_scores(stock_of("qwen2"), prompt_of(PROMPT)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("kept_tokens", [0, WINDOW - 1, PROMPT + 1])
def test_kept_tokens_out_of_range_are_named(kept_tokens, make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT))
    with pytest.raises(SettingError, match=r"kept_tokens must be from 8 .* to 75"):
        engine.evict(kept_tokens)


def test_a_prompt_inside_the_window_is_never_evicted(make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(5))
    engine.evict(5)
    with pytest.raises(SettingError, match="from 5"):
        engine.evict(4)
