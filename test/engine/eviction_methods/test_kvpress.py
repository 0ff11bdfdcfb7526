# SPDX-License-Identifier: Apache-2.0
"""The eviction methods against NVIDIA's kvpress, where it is installed.

kvpress asks for another transformers than this package: ``make kvpress`` runs this file in an
environment of its own, and the engine with it.

kvpress has no like of our random eviction: it draws other numbers.
"""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from timebill_ros.engine.attention import AttentionShape, ObservationWindow
from timebill_ros.engine.decoder import LeanDecoder
from timebill_ros.engine.eviction import PromptEviction, make_eviction_method
from timebill_ros.engine.kv_cache import KVCache

kvpress = pytest.importorskip("kvpress", reason="kvpress needs an environment of its own")

# Whole chunks of 10, in the window too: kvpress cuts the window into chunks like the rest.
WINDOW, PROMPT, CHUNK, KERNEL = 20, 180, 10, 5
SIZES = {
    "vocab_size": 400,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "initializer_range": 0.25,
    "head_dim": 16,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, num_attention_heads=6, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZES, num_attention_heads=6, num_key_value_heads=3),
    "llama": LlamaConfig(**SIZES, num_attention_heads=6, num_key_value_heads=2),
    "llama_mha": LlamaConfig(**SIZES, num_attention_heads=6, num_key_value_heads=6),
}
KEPT = [30, 60, 110, 170]

pytestmark = pytest.mark.parametrize("name", CONFIGS)


@functools.cache
def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def prompt_tokens() -> torch.Tensor:
    """No token twice, so that no two keys are equally long in the first layer."""
    return torch.randperm(400, generator=torch.Generator().manual_seed(1))[:PROMPT]


@torch.inference_mode()
def prefilled(name: str, method: str) -> tuple[KVCache, PromptEviction]:
    """The engine's cache after the prompt, and what evicts from it."""
    model = model_of(name)
    shape = AttentionShape.of(model)
    cache, observation = KVCache(shape, PROMPT), ObservationWindow(shape.layers, WINDOW)
    LeanDecoder(model, cache).prefill(prompt_tokens(), observation)
    chosen = make_eviction_method(method, kernel=KERNEL, model=model)
    eviction = PromptEviction(cache, observation, chosen)
    eviction.begin(PROMPT)
    return cache, eviction


@torch.inference_mode()
def pressed(name: str, press) -> DynamicCache:
    """kvpress's cache after the prompt."""
    cache = DynamicCache()
    with press(model_of(name)):
        model_of(name)(prompt_tokens()[None], past_key_values=cache)
    return cache


def press_scores(name: str, press) -> list[torch.Tensor]:
    """Scores that kvpress gives the tokens before the window, [KV, N_x - w] per layer."""
    scores, score = [], press.score

    def recorded(*args):
        scores.append(score(*args))
        return scores[-1]

    press.score = recorded
    pressed(name, press)
    return [layer[0, :, :-WINDOW] for layer in scores]


def positions(rows: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Where rows [KV, n, D] stand in the whole cache [KV, N_x, D]; ascending, [KV, n]."""
    exact = "donot_use_mm_for_euclid_dist"
    nearest = torch.cdist(rows, whole, compute_mode=exact).min(-1)
    assert nearest.values.max() < 1e-3
    return nearest.indices.sort(-1).values


def assert_same_kept(name: str, method: str, kept_tokens: int, press) -> None:
    """Both keep the same positions in every layer and head."""
    cache, eviction = prefilled(name, method)
    whole = cache.buffer[:, 0].clone()
    with torch.inference_mode():
        eviction.evict(kept_tokens)
    theirs = pressed(name, press)
    for layer in range(cache.layers):
        ours = positions(cache.rows(layer)[0], whole[layer])
        assert torch.equal(ours, positions(theirs.layers[layer].keys[0], whole[layer]))


def ratio(kept_tokens: float) -> float:
    """The compression ratio of which kvpress keeps so many tokens, half a token from rounding."""
    return 1.0 - (kept_tokens + 0.5) / PROMPT


def snapkv_press(kept_tokens: int):
    return kvpress.SnapKVPress(ratio(kept_tokens), window_size=WINDOW, kernel_size=KERNEL)


def test_snapkv_scores(name):
    _, eviction = prefilled(name, "snapkv")
    for ours, theirs in zip(eviction.scores(), press_scores(name, snapkv_press(60)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_key_norm_scores(name):
    _, eviction = prefilled(name, "key_norm")
    press = kvpress.KnormPress(ratio(60))
    for ours, theirs in zip(eviction.scores(), press_scores(name, press), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_criticalkv_scores(name):
    _, eviction = prefilled(name, "criticalkv")
    press = kvpress.CriticalKVPress(snapkv_press(60), first_stage_ratio=0.0)
    for (_, ours), theirs in zip(eviction.scores(), press_scores(name, press), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept_tokens", KEPT)
def test_snapkv_keeps_the_same(name, kept_tokens):
    assert_same_kept(name, "snapkv", kept_tokens, snapkv_press(kept_tokens))


@pytest.mark.parametrize("kept_tokens", KEPT)
def test_streaming_llm_keeps_the_same(name, kept_tokens):
    press = kvpress.StreamingLLMPress(ratio(kept_tokens), n_sink=4)
    assert_same_kept(name, "streaming_llm", kept_tokens, press)


@pytest.mark.parametrize("kept_tokens", KEPT)
def test_criticalkv_keeps_the_same(name, kept_tokens):
    # kvpress counts the window as a part of the first stage, which we halve without it.
    first = WINDOW + (kept_tokens - WINDOW) // 2
    share = (first + 0.25) / (kept_tokens + 0.5)
    press = kvpress.CriticalKVPress(snapkv_press(kept_tokens), first_stage_ratio=share)
    assert_same_kept(name, "criticalkv", kept_tokens, press)


@pytest.mark.parametrize("kept_tokens", KEPT)
def test_chunkkv_keeps_the_same(name, kept_tokens):
    press = kvpress.ChunkKVPress(snapkv_press(kept_tokens), chunk_length=CHUNK)
    assert_same_kept(name, "chunkkv", kept_tokens, press)
