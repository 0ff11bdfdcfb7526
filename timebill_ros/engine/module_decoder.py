# SPDX-License-Identifier: Apache-2.0
"""Running tokens through transformers' own modules, over the engine's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from timebill_ros.engine.attention import HiddenStates, ObservationWindow
from timebill_ros.engine.kv_cache import KVCache, transformers_view


class ModuleDecoder:
    """The general path, for every supported model; see ``Decoder`` for the contract.

    Also the reference that ``LeanDecoder`` is tested against.
    """

    def __init__(self, model: PreTrainedModel, cache: KVCache) -> None:
        self.hidden: HiddenStates | None = None
        self._model = model
        self._cache = cache
        self._past = transformers_view(cache)

    def prefill(self, tokens: Tensor, observation: ObservationWindow | None) -> Tensor:
        """See ``Decoder.prefill``."""
        return self._logits(tokens, observation, 1)[0]

    def step(self, token: int) -> Tensor:
        """See ``Decoder.step``."""
        return self.prefill(torch.tensor([token], device=self._model.device), None)

    def follow(self, tokens: Tensor) -> Tensor:
        """See ``Decoder.follow``."""
        return self._logits(tokens, None, 0)

    def step_together(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """See ``Decoder.step_together``: one after the other."""
        each = zip(tokens.tolist(), caches, strict=True)
        return torch.stack([ModuleDecoder(self._model, cache).step(token) for token, cache in each])

    def _logits(self, tokens: Tensor, observation: ObservationWindow | None, last: int) -> Tensor:
        """Run n tokens; logits of the ``last`` of them, 0 for all."""
        count = len(tokens)
        first = self._cache.position
        # Explicit, since after an eviction the position is ahead of the cache's length.
        positions = torch.arange(first, first + count, device=tokens.device)
        output: Any = self._model(
            input_ids=tokens[None],
            position_ids=positions[None],
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=last,
            observation=observation,
            output_hidden_states=self.hidden is not None,
        )
        self._cache.advance(count)
        if self.hidden is not None:
            # The first is the embedding's.
            for layer, state in enumerate(output.hidden_states[1:]):
                self.hidden.record(layer, state[0, -1])
        logits: Tensor = output.logits
        return logits[0]
