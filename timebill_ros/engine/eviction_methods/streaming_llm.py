# SPDX-License-Identifier: Apache-2.0
"""StreamingLLM: the prompt's first tokens and its last ones (arXiv 2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from timebill_ros.engine.eviction_methods.method import EvictionMethod, LayerPrompt


@dataclass(frozen=True)
class StreamingLLM(EvictionMethod):
    """Keeps the first tokens, on which attention rests, and the most recent (arXiv 2309.17453).

    Xiao et al., section 3.2. There the kept tokens are given new, adjoining positions; here they
    keep their own, as with every other method.

    Attributes:
        sinks: first tokens to keep, before any recent one.
    """

    sinks: int = 4

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Higher the later, but highest for the sinks; [KV, N_x - w], a view of one row."""
        kv_heads, count = len(prompt.keys), prompt.evictable
        row = torch.arange(count, dtype=torch.float32, device=prompt.keys.device)
        sinks = row[: self.sinks]
        sinks.neg_().add_(count + self.sinks)  # the first of them is the last to go
        return row.expand(kv_heads, count)
