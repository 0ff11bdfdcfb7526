# SPDX-License-Identifier: Apache-2.0
"""Running tokens through transformers' own modules."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from timebill_ros.engine.attention import QueryWindow
from timebill_ros.engine.kv_cache import KVCache, transformers_view


class ModuleDecoder:
    """The general path, for every supported model; see ``Decoder`` for the contract.

    Also the reference that ``LeanDecoder`` is tested against.
    """

    def __init__(self, model: PreTrainedModel, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._past = transformers_view(cache)

    def prefill(self, tokens: Tensor, queries: QueryWindow | None) -> Tensor:
        """See ``Decoder.prefill``."""
        count = len(tokens)
        first = self._cache.position
        # Explicit, since after an eviction the position is ahead of the cache's length.
        positions = torch.arange(first, first + count, device=tokens.device)
        logits = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
            query_window=queries,
        ).logits
        self._cache.advance(count)
        return logits[0, -1]

    def step(self, token: int) -> Tensor:
        """See ``Decoder.step``."""
        return self.prefill(torch.tensor([token], device=self._model.device), None)
