# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from timebill_ros.engine.errors import UnsupportedModel
from timebill_ros.engine.eviction_methods import (
    CriticalKV,
    output_projections,
    projected_norms,
)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("tokens", [1, 600])  # 600: more than a block
def test_norms_follow_the_definition(heads, kv_heads, tokens):
    generator = torch.Generator().manual_seed(heads + tokens)
    values = torch.randn(kv_heads, tokens, 8, generator=generator)
    projection = torch.randn(24, heads * 8, generator=generator)
    expected = torch.zeros(kv_heads, tokens)
    for head in range(heads):
        group = heads // kv_heads
        output = torch.zeros(tokens, heads * 8)  # what attention gives if only this head is heard
        output[:, head * 8 : head * 8 + 8] = values[head // group]
        expected[head // group] += (output @ projection.T).abs().sum(-1) / group
    torch.testing.assert_close(projected_norms(values, projection), expected)


def test_a_part_is_kept_by_attention_alone():
    scores = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0]], [[0.0, 1.0, 2.0, 3.0, 4.0]]])
    assert CriticalKV([]).keep(scores, 4).tolist() == [[0, 1, 3, 4]]
    assert CriticalKV([]).keep(scores, 3).tolist() == [[0, 3, 4]]
    assert CriticalKV([], first_share=0.0).keep(scores, 2).tolist() == [[3, 4]]
    assert CriticalKV([], first_share=1.0).keep(scores, 2).tolist() == [[0, 1]]


def test_projections_are_the_models_own_memory(family, checkpoint_of):
    model = checkpoint_of(family).model
    for layer, projection in zip(model.model.layers, output_projections(model), strict=True):
        assert projection.data_ptr() == layer.self_attn.o_proj.weight.data_ptr()


def test_models_with_another_projection_are_refused(stock_of):
    class Other(nn.Linear):
        pass

    model = stock_of("qwen2")
    attention = model.model.layers[1].self_attn
    original = attention.o_proj
    for other, named in ((Other(8, 8), "it is Other"), (None, "it is NoneType")):
        attention.o_proj = other
        with pytest.raises(UnsupportedModel, match=rf"criticalkv needs .*o_proj.* \({named}\)"):
            output_projections(model)
    attention.o_proj = original
    del model.model.layers[1].self_attn
    try:
        with pytest.raises(UnsupportedModel, match="has no attribute 'self_attn'"):
            output_projections(model)
    finally:
        model.model.layers[1].self_attn = attention
