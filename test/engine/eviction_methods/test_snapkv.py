# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import observed_attention
from timebill_ros.engine.eviction_methods import LayerPrompt, SnapKV


def defined_scores(queries, keys, kernel):
    """The definition, one number at a time."""
    heads, window, _ = queries.shape
    kv_heads, prompt, _ = keys.shape
    group = heads // kv_heads
    before = prompt - window
    mean = torch.zeros(kv_heads, before, dtype=torch.float64)
    for head in range(heads):
        for row in range(window):
            seen = keys[head // group, : before + row + 1].double()
            attention = (seen @ queries[head, row].double()).softmax(0)
            mean[head // group] += attention[:before] / (group * window)
    half = kernel // 2
    smooth = torch.zeros_like(mean)
    for at in range(before):
        smooth[:, at] = mean[:, max(0, at - half) : at + half + 1].sum(-1) / kernel
    return smooth


@pytest.mark.parametrize("kernel", [1, 5, 7])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_scores_follow_the_definition(heads, kv_heads, kernel):
    generator = torch.Generator().manual_seed(heads + kernel)
    queries = torch.randn(heads, 5, 8, generator=generator)
    keys = torch.randn(kv_heads, 33, 8, generator=generator)
    _, attention = observed_attention(queries, keys, keys, 1.0)
    scores = SnapKV(kernel).scores(LayerPrompt(0, attention, keys, keys))
    torch.testing.assert_close(scores.double(), defined_scores(queries, keys, kernel))


@pytest.mark.parametrize("kernel", [4, 0, -1])
def test_the_kernel_must_have_a_middle(kernel):
    with pytest.raises(SettingError, match="kernel must be odd and >= 1"):
        SnapKV(kernel)
