# SPDX-License-Identifier: Apache-2.0
"""Eviction against the stock model: its dense attention, and its cache, gathered."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.eviction import EVICTION_METHODS
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine

from .conftest import COMMON, MAX_CONTEXT
from .eviction_methods.defined import KERNEL, attention_scores, dense_layers, kept_positions

WINDOW, PROMPT = 8, 75


def prefilled(engine, prompt, max_tokens=30):
    engine.begin(PreparedRequest(prompt), max_tokens, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    return engine


def distinct_tokens(seed):
    """A prompt with no token twice.

    In the first layer its keys would be equally long, and rounding would choose between them.
    """
    generator = torch.Generator().manual_seed(seed)
    return (3 + torch.randperm(COMMON["vocab_size"] - 3, generator=generator)[:PROMPT]).tolist()


def gathered(stock, prompt, positions_of):
    """Logits after the prompt, and the stock model's cache of the positions that stay."""
    full = DynamicCache()
    with torch.no_grad():
        logits = stock(torch.tensor([prompt]), past_key_values=full).logits
    cache = DynamicCache()
    for index, layer in enumerate(full.layers):
        rows = positions_of[index][None, :, :, None].expand(-1, -1, -1, layer.keys.shape[-1])
        cache.update(layer.keys.gather(2, rows), layer.values.gather(2, rows), index)
    return logits, cache


def decode_over_gathered_cache(stock, prompt, positions_of, steps):
    """Greedy response of the stock model whose cache holds only the positions that stay."""
    logits, cache = gathered(stock, prompt, positions_of)
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


def defined_positions(name, stock, prompt, kept_tokens):
    """Positions that stay by the method's definition, [KV, kept_tokens] per layer."""
    layers = dense_layers(stock, prompt)
    return [kept_positions(name, layer, WINDOW, kept_tokens) for layer in layers]


def positions_in(before, engine, kept_tokens):
    """Where the cache's first rows stood in ``before``, [layers, KV, kept_tokens].

    Every row must be found exactly once, so no key may repeat in one head.
    """
    after = engine.cache.buffer[:, :, :, :kept_tokens]
    same = (after[:, :, :, :, None] == before[:, :, :, None]).all(-1).all(1)
    assert (same.sum(-1) == 1).all()
    return same.int().argmax(-1)


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
def test_scores_equal_dense_attention(family, lean, make_engine, stock_of, prompt_of):
    prompt = prompt_of(PROMPT)
    engine = prefilled(make_engine(family, lean=lean, window=WINDOW, kernel=KERNEL), prompt)
    dense = [attention_scores(x, WINDOW) for x in dense_layers(stock_of(family), prompt)]
    for scores, expected in zip(engine.eviction.scores(), dense, strict=True):
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-6)


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
    positions = defined_positions("snapkv", stock_of(family), prompt, kept_tokens)
    expected = decode_over_gathered_cache(stock_of(family), prompt, positions, 12)
    assert engine.response_ids == expected


@pytest.mark.parametrize("method", sorted(set(EVICTION_METHODS) - {"snapkv"}))
@pytest.mark.parametrize("name", ["qwen2", "llama", "phi3", "olmo2"])
@pytest.mark.parametrize("kept_tokens", [9, 30, 55])
def test_every_method_keeps_what_it_defines(method, name, kept_tokens, make_engine, stock_of):
    prompt, stock = distinct_tokens(kept_tokens), stock_of(name)
    settings = {"window": WINDOW, "kernel": KERNEL, "eviction_method": method}
    engine = prefilled(make_engine(name, **settings), prompt)
    before = engine.cache.buffer[:, :, :, :PROMPT].clone()
    engine.evict(kept_tokens)
    positions = defined_positions(method, stock, prompt, kept_tokens)
    assert torch.equal(positions_in(before, engine, kept_tokens), torch.stack(positions))
    for _ in range(12):
        engine.step()
    assert engine.response_ids == decode_over_gathered_cache(stock, prompt, positions, 12)


@pytest.mark.parametrize("method", EVICTION_METHODS)
@pytest.mark.parametrize("prompt_tokens", [WINDOW + 1, WINDOW + 2, PROMPT])
def test_any_number_is_kept_exactly_and_the_window_always(
    method, prompt_tokens, make_engine, prompt_of
):
    engine, prompt = make_engine(eviction_method=method, window=WINDOW), prompt_of(prompt_tokens)
    for kept_tokens in range(WINDOW, prompt_tokens):
        prefilled(engine, prompt)
        before = engine.cache.buffer[:, :, :, :prompt_tokens].clone()
        engine.evict(kept_tokens)
        assert engine.cache.length == kept_tokens
        positions = positions_in(before, engine, kept_tokens)
        assert (positions.diff(dim=-1) > 0).all()
        assert (positions[..., -WINDOW:] == torch.arange(prompt_tokens)[-WINDOW:]).all()


def test_the_cache_really_shrinks(make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT))
    engine.evict(20)
    assert (engine.cache.length, engine.cache.position) == (20, PROMPT)
    engine.step()
    assert (engine.cache.length, engine.cache.position) == (21, PROMPT + 1)


@pytest.mark.parametrize("method", EVICTION_METHODS)
def test_keeping_everything_changes_nothing(method, make_engine, prompt_of):
    engine = prefilled(make_engine(eviction_method=method), prompt_of(PROMPT))
    before = engine.cache.buffer[:, :, :, :PROMPT].clone()
    engine.evict(PROMPT)
    assert torch.equal(engine.cache.buffer[:, :, :, :PROMPT], before)


@pytest.mark.parametrize("method", EVICTION_METHODS)
def test_evictions_are_nested(method, make_engine, prompt_of):
    engine, prompt = make_engine(eviction_method=method), prompt_of(PROMPT)
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
    dense = dense_layers(stock_of("qwen2"), prompt_of(PROMPT))
    for scores, layer in zip(fresh, dense, strict=True):
        expected = attention_scores(layer, WINDOW)
        torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept_tokens", [0, WINDOW - 1, PROMPT + 1])
def test_kept_tokens_out_of_range_are_named(kept_tokens, make_engine, prompt_of):
    engine = prefilled(make_engine(), prompt_of(PROMPT))
    with pytest.raises(SettingError, match=r"kept_tokens must be from 8 .* to 75"):
        engine.evict(kept_tokens)


@pytest.mark.parametrize("method", EVICTION_METHODS)
@pytest.mark.parametrize("prompt_tokens", [5, WINDOW])
def test_a_prompt_inside_the_window_is_never_evicted(method, prompt_tokens, make_engine, prompt_of):
    engine = prefilled(make_engine(eviction_method=method), prompt_of(prompt_tokens))
    engine.evict(prompt_tokens)
    with pytest.raises(SettingError, match=f"from {prompt_tokens}"):
        engine.evict(prompt_tokens - 1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("method", EVICTION_METHODS)
def test_cuda_keeps_what_cpu_keeps(method, folder_of, make_engine):
    checkpoint = load_checkpoint(folder_of("qwen2"), device="cuda", dtype="float32")
    settings = {"window": WINDOW, "eviction_method": method}
    on_gpu = TransformerEngine(
        checkpoint, EngineSettings(max_context=MAX_CONTEXT, chunk=32, **settings)
    )
    kept = []
    for engine in (on_gpu, make_engine("qwen2", **settings)):
        prefilled(engine, distinct_tokens(0))
        before = engine.cache.buffer[:, :, :, :PROMPT].clone()
        engine.evict(40)
        engine.evict(30)
        kept.append(positions_in(before, engine, 30).cpu())
    assert torch.equal(*kept)
