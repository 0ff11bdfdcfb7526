# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from timebill_ros.engine.attention import (
    IMPLEMENTATION,
    AttentionShape,
    ObservationWindow,
    _masked_attention,
    grouped_attention,
)
from timebill_ros.engine.errors import UnsupportedModel


@pytest.mark.parametrize("attention", [grouped_attention, _masked_attention])
@pytest.mark.parametrize(("count", "keys"), [(1, 1), (1, 9), (4, 4), (4, 9), (9, 9)])
def test_the_last_tokens_attend_to_themselves_and_before(attention, count, keys):
    torch.manual_seed(count + keys)
    query, key, value = (
        torch.randn(1, 6, count, 8),
        torch.randn(1, 2, keys, 8),
        torch.randn(1, 2, keys, 8),
    )
    out = attention(query, key, value, 0.3)
    for head in range(6):
        for row in range(count):
            seen = keys - count + row + 1
            weights = (key[0, head // 3, :seen] @ query[0, head, row] * 0.3).softmax(0)
            torch.testing.assert_close(out[0, head, row], weights @ value[0, head // 3, :seen])


@pytest.mark.parametrize(("count", "keys", "window"), [(1, 9, 5), (4, 9, 5), (7, 9, 5), (6, 6, 5)])
def test_the_observation_window_changes_no_attention(count, keys, window):
    torch.manual_seed(count + keys)
    query, key, value = (
        torch.randn(1, 6, count, 8),
        torch.randn(1, 2, keys, 8),
        torch.randn(1, 2, keys, 8),
    )
    observation = ObservationWindow(layers=2, size=window)
    out = observation.attend(1, query, key, value, 0.3)
    torch.testing.assert_close(out, grouped_attention(query, key, value, 0.3))
    observed = min(count, window)
    defined = torch.zeros(2, keys - observed)
    for head in range(6):
        for row in range(count - observed, count):
            seen = key[0, head // 3, : keys - count + row + 1]
            weights = (seen @ query[0, head, row] * 0.3).softmax(0)
            defined[head // 3] += weights[: keys - observed] / (3 * observed)
    torch.testing.assert_close(observation.attention(1), defined)


def test_a_layer_that_was_not_observed_is_named():
    observation = ObservationWindow(layers=2, size=5)
    query = torch.randn(1, 2, 3, 8)
    observation.attend(0, query, query, query, 1.0)
    assert not observation.complete
    with pytest.raises(RuntimeError, match="layer 1"):
        observation.attention(1)
    observation.attend(1, query, query, query, 1.0)
    assert observation.complete
    observation.reset()
    assert not observation.complete


@pytest.mark.parametrize("argument", ["softcap", "s_aux", "position_bias"])
def test_attention_that_would_be_computed_wrongly_is_refused(argument):
    forward = AttentionInterface()[IMPLEMENTATION]
    tensor = torch.zeros(1, 1, 1, 4)
    with pytest.raises(UnsupportedModel, match=argument):
        forward(nn.Identity(), tensor, tensor, tensor, None, **{argument: 1.0})


@pytest.mark.parametrize(("name", "head_dim"), [("qwen2", 16), ("qwen3", 32), ("olmo2", 16)])
def test_shape_is_read_from_the_model(name, head_dim, checkpoint_of):
    shape = AttentionShape.of(checkpoint_of(name).model)
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (3, 4, 2, head_dim)
