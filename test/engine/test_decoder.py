# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.decoder import (
    LeanDecoder,
    layer_weights,
    rotary_tables,
    supports,
)
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.module_decoder import ModuleDecoder
from timebill_ros.engine.projection import FullProjection, Projection


def logits_of(decoder_type, model, prompt, *projection):
    """Logits of two prompt chunks and one step, [3, V]."""
    cache = KVCache(AttentionShape.of(model), capacity=64)
    decoder = decoder_type(model, cache, *projection)
    with torch.inference_mode():
        first = decoder.prefill(torch.tensor(prompt[:10]), None)
        second = decoder.prefill(torch.tensor(prompt[10:]), None)
        return torch.stack((first, second, decoder.step(7)))


@pytest.mark.parametrize("decoder_type", [LeanDecoder, ModuleDecoder])
def test_sequences_run_together_as_they_do_alone(decoder_type, folder_of, prompt_of):
    model = load_checkpoint(folder_of("llama")).model
    shape = AttentionShape.of(model)
    own = KVCache(shape, capacity=64)
    decoder = decoder_type(model, own)
    caches, alone = [], []
    with torch.inference_mode():
        for count, token in ((10, 7), (25, 8), (3, 9)):
            own.reset()
            decoder.prefill(torch.tensor(prompt_of(count)), None)
            caches.append(own.copy(capacity=count + 2))
            alone.append(torch.stack((decoder.step(token), decoder.step(5))))
        first = decoder.step_together(torch.tensor([7, 8, 9]), caches)
        second = decoder.step_together(torch.tensor([5, 5, 5]), caches)
    together = torch.stack((first, second), dim=1)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decoder_type", [LeanDecoder, ModuleDecoder])
def test_given_tokens_run_at_once_as_they_do_one_by_one(decoder_type, folder_of, prompt_of):
    model = load_checkpoint(folder_of("llama")).model
    cache = KVCache(AttentionShape.of(model), capacity=64)
    decoder = decoder_type(model, cache)
    with torch.inference_mode():
        decoder.prefill(torch.tensor(prompt_of(40)), None)
        heads = cache.buffer.shape[2]
        cache.compact([torch.arange(0, 30, 2).expand(heads, -1)] * cache.layers, end=30)
        evicted = cache.copy(64)
        alone = torch.stack([decoder.step(token) for token in (7, 8, 9)])
        cache.drop(3)
        assert (cache.length, cache.position) == (evicted.length, evicted.position) == (25, 40)
        at_once = decoder.follow(torch.tensor([7, 8, 9]))
        torch.testing.assert_close(at_once, alone, rtol=1e-3, atol=1e-3)
        cache.restore(evicted)
        torch.testing.assert_close(decoder.step(7), alone[0], rtol=1e-3, atol=1e-3)


def test_logits_equal_the_modules(family, folder_of, prompt_of):
    model = load_checkpoint(folder_of(family)).model
    expected = logits_of(ModuleDecoder, model, prompt_of(40))
    torch.testing.assert_close(
        logits_of(LeanDecoder, model, prompt_of(40)), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_give_nearly_the_same(family, dtype, folder_of, prompt_of):
    narrow = load_checkpoint(folder_of(family), dtype=dtype).model
    wide = load_checkpoint(folder_of(family)).model
    logits = logits_of(LeanDecoder, narrow, prompt_of(40))
    assert logits.dtype == getattr(torch, dtype)
    alike = F.cosine_similarity(logits.float(), logits_of(ModuleDecoder, wide, prompt_of(40)))
    assert alike.min() > 0.99


def test_every_linear_layer_runs_behind_a_projection(family, folder_of, prompt_of):
    """One that keeps half of its weight in another form gives what the whole weight gives."""
    made = []

    class Halves(Projection):
        def __init__(self, weight, bias):
            made.append(self)
            self.parts, self.bias = weight.chunk(2, dim=-1), bias

        def __call__(self, x):
            low, high = x.chunk(2, dim=-1)
            product = F.linear(low, self.parts[0]) + F.linear(high, self.parts[1])
            return product if self.bias is None else product + self.bias

    model = load_checkpoint(folder_of(family)).model
    expected = logits_of(LeanDecoder, model, prompt_of(40))
    torch.testing.assert_close(
        logits_of(LeanDecoder, model, prompt_of(40), Halves), expected, rtol=1e-4, atol=1e-4
    )
    assert len(made) == 4 * model.config.num_hidden_layers + 1


@pytest.fixture
def model(folder_of):
    return load_checkpoint(folder_of("qwen2")).model


def test_the_family_is_supported(family, folder_of):
    assert supports(load_checkpoint(folder_of(family)).model)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "granite"},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "proportional"}},
    ],
)
def test_another_computation_is_not_supported(model, changes):
    model.config = copy.copy(model.config)
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert not supports(model)


def test_quantised_layers_are_not_supported(model):
    class Quantised(torch.nn.Linear):
        pass

    model.model.layers[1].mlp.up_proj = Quantised(64, 96)
    assert not supports(model)


def test_stacked_weights_are_the_modules_own(model):
    layer = model.model.layers[0]
    before = layer.self_attn.k_proj.weight.clone()
    weights = layer_weights(layer, heads=4, kv_heads=2)
    storage = weights.qkv.weight.untyped_storage().data_ptr()
    for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
        assert projection.weight.untyped_storage().data_ptr() == storage
    assert torch.equal(layer.self_attn.k_proj.weight, before)


def test_taking_the_weights_leaves_the_model_as_it_was(family, folder_of, stock_of):
    model = load_checkpoint(folder_of(family)).model
    LeanDecoder(model, KVCache(AttentionShape.of(model), capacity=8))
    stock = stock_of(family).state_dict()
    assert all(torch.equal(tensor, stock[name]) for name, tensor in model.state_dict().items())


def test_rotary_tables_rotate_as_the_model_does(model):
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    x = torch.randn(1, 2, 20, 16)
    cos, sin = rotary_tables(model, 20)
    rotated = x * cos + x.roll(8, dims=-1) * sin
    expected, _ = apply_rotary_pos_emb(x, x, *model.model.rotary_emb(x, torch.arange(20)[None]))
    torch.testing.assert_close(rotated, expected)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(("rows", "columns"), [(12, 8), (1024, 256), (1025, 256)])
def test_products_with_a_vector_are_the_same_however_they_are_made(threads, rows, columns):
    generator = torch.Generator().manual_seed(0)
    # Whole numbers, whose sums are exact in any order.
    weight, bias, x = (
        torch.randint(-9, 10, shape, generator=generator).float()
        for shape in ((rows, columns), (rows,), (columns,))
    )
    expected = torch.nn.functional.linear(x, weight, bias)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        project, total = FullProjection(weight, bias), torch.ones(rows)
        torch.testing.assert_close(project(x), expected)
        project.add_to(total, x)
        torch.testing.assert_close(total, 1.0 + expected)
    finally:
        torch.set_num_threads(before)
