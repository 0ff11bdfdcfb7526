# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch

from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.kv_cache import KVCache
from timebill_ros.engine.lean_decoder import LeanDecoder
from timebill_ros.engine.lean_weights import (
    FullProjection,
    layer_weights,
    rotary_tables,
    supports,
)


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
@pytest.mark.parametrize("rows", [12, 13])
def test_threads_share_the_product_with_a_vector(threads, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, 8, generator=generator)
    bias, x = torch.randn(rows, generator=generator), torch.randn(8, generator=generator)
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
