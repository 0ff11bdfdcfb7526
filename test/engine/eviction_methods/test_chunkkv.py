# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.engine.eviction_methods import ChunkKV, LayerPrompt, SnapKV

# Of a window of one token.
ATTENTION = [0.01, 0.02, 0.01, 0.30, 0.01, 0.02, 0.10, 0.11, 0.09, 0.13, 0.12]


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (3, [3, 9, 10]),  # the remainder of two tokens is the best chunk, the mean counts
        (5, [3, 4, 5, 9, 10]),
        (4, [3, 5, 9, 10]),  # the best two of the second chunk
        (2, [9, 10]),
        (1, [9]),
        (8, [3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_chunks_are_kept_whole_but_the_last(count, kept):
    keys = torch.zeros(1, 12, 2)
    prompt = LayerPrompt(0, torch.tensor([ATTENTION]), keys, keys)
    method = ChunkKV(SnapKV(kernel=1), chunk=3)
    assert method.keep(method.scores(prompt), count).tolist() == [sorted(kept)]


def test_all_heads_of_a_layer_keep_the_same():
    torch.manual_seed(0)
    keys = torch.randn(3, 50, 8)
    method = ChunkKV()
    scores = method.scores(LayerPrompt(0, torch.rand(3, 45), keys, keys))
    assert len(method.keep(scores, 23).unique(dim=0)) == 1
