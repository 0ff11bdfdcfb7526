# SPDX-License-Identifier: Apache-2.0
"""What holds for every method, on prompts of any shape, even of equal tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from timebill_ros.engine.attention import observed_attention
from timebill_ros.engine.eviction import EVICTION_METHODS, make_eviction_method
from timebill_ros.engine.eviction_methods import LayerPrompt, keep_highest

LAYERS, HEADS, KV_HEADS, DIM = 2, 6, 2, 4
MODEL = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=8,
        hidden_size=HEADS * DIM,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
    )
)
METHODS = {name: make_eviction_method(name, kernel=5, model=MODEL) for name in EVICTION_METHODS}


def draw_prompt(seed, window, prompt_tokens, *, equal=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(HEADS, window, DIM, generator=generator)
    keys = torch.randn(KV_HEADS, prompt_tokens, DIM, generator=generator)
    values = torch.randn(KV_HEADS, prompt_tokens, DIM, generator=generator)
    if equal:
        keys, values = (rows[:, :1].expand_as(rows) for rows in (keys, values))
    queries, keys, values = (x.to(dtype) for x in (queries, keys, values))
    _, attention = observed_attention(queries, keys, values, 1.0)
    return LayerPrompt(seed % LAYERS, attention, keys, values)


@pytest.mark.parametrize("name", sorted(METHODS))
@given(
    seed=st.integers(0, 2**31),
    window=st.integers(1, 9),
    evictable=st.integers(1, 70),
    equal=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40)
def test_every_head_keeps_just_so_many(name, seed, window, evictable, equal, data):
    method = METHODS[name]
    prompt = draw_prompt(seed, window, window + evictable, equal=equal)
    count = data.draw(st.integers(0, evictable))
    kept = method.keep(method.scores(prompt), count)
    assert kept.shape == (KV_HEADS, count)
    assert (kept.diff(dim=-1) > 0).all(), "unique, in the prompt's order"
    assert ((kept >= 0) & (kept < evictable)).all()


@pytest.mark.parametrize("name", sorted(METHODS))
@given(seed=st.integers(0, 2**31), evictable=st.integers(1, 70), data=st.data())
@settings(max_examples=40)
def test_fewer_are_a_part_of_more(name, seed, evictable, data):
    method = METHODS[name]
    scores = method.scores(draw_prompt(seed, 3, 3 + evictable))
    more = data.draw(st.integers(0, evictable))
    fewer = data.draw(st.integers(0, more))
    for small, large in zip(method.keep(scores, fewer), method.keep(scores, more), strict=True):
        assert set(small.tolist()) <= set(large.tolist())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_narrow_types_are_scored_in_float32(name):
    prompt = draw_prompt(0, 3, 40, dtype=torch.bfloat16)
    method = make_eviction_method(name, kernel=5, model=MODEL)
    if name == "criticalkv":
        method = type(method)([w.bfloat16() for w in method.projections])
    assert method.scores(prompt).dtype == torch.float32


def test_highest_scores_are_kept_in_order():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8], [0.5, 0.1, 0.2, 0.6]])
    assert keep_highest(scores, 2).tolist() == [[1, 3], [0, 3]]
    assert keep_highest(scores, 0).shape == (2, 0)
