# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.engine.attention_shape import AttentionShape


@pytest.mark.parametrize(("name", "head_dim"), [("qwen2", 16), ("qwen3", 32), ("olmo2", 16)])
def test_shape_is_read_from_the_model(name, head_dim, checkpoint_of):
    shape = AttentionShape.of(checkpoint_of(name).model)
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (3, 4, 2, head_dim)
