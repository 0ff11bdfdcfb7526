# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.engine.eviction_methods import LayerPrompt, StreamingLLM


@pytest.mark.parametrize(
    ("sinks", "count", "kept"),
    [
        (4, 7, [0, 1, 2, 3, 7, 8, 9]),
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [0, 1]),
        (1, 3, [0, 8, 9]),
        (0, 3, [7, 8, 9]),
        (12, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_sinks_come_first_then_the_most_recent(sinks, count, kept):
    keys = torch.zeros(1, 12, 4)
    method = StreamingLLM(sinks)
    scores = method.scores(LayerPrompt(0, torch.zeros(1, 10), keys, keys))
    assert method.keep(scores, count).tolist() == [kept]
