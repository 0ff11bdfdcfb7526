# SPDX-License-Identifier: Apache-2.0
"""Running tokens through a model, over the engine's own cache."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from timebill_ros.engine.attention import QueryWindow
from timebill_ros.engine.checkpoint import Checkpoint
from timebill_ros.engine.errors import UnsupportedModel
from timebill_ros.engine.kv_cache import KVCache, transformers_view
from timebill_ros.engine.lean_decoder import LeanDecoder
from timebill_ros.engine.lean_weights import supports
from timebill_ros.engine.narrow_weights import WeightKinds, check_kinds


class Decoder(Protocol):
    """Runs tokens at the cache's position, appends their keys and values, returns logits."""

    def prefill(self, tokens: Tensor, queries: QueryWindow | None) -> Tensor:
        """Run n prompt tokens [n]; logits [V] of the last.

        ``queries`` records the observation window, if given.
        """

    def step(self, token: int) -> Tensor:
        """Run one response token; logits [V]."""


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
        logits: Tensor = self._model(
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


def make_decoder(
    checkpoint: Checkpoint,
    cache: KVCache,
    queries: QueryWindow,
    *,
    lean: bool,
    weights: WeightKinds,
) -> Decoder:
    """The lean decoder if it is wanted and supports the model, else the modules.

    Raises:
        SettingError: the weights cannot be kept so.
        UnsupportedModel: the modules do not run over the cache, found by running one token.
    """
    model = checkpoint.model
    lean = lean and supports(model)
    check_kinds(weights, dtype=checkpoint.dtype, device=checkpoint.device.type, lean=lean)
    if lean:
        return LeanDecoder(model, cache, weights.maker(), weights.head_maker())
    decoder = ModuleDecoder(model, cache)
    try:
        decoder.prefill(torch.zeros(1, dtype=torch.long, device=model.device), queries)
    except (RuntimeError, TypeError) as error:
        fault = str(error).splitlines()[0]
        reason = f"{type(model).__name__} does not run over the engine's cache: {fault}"
        raise UnsupportedModel(checkpoint.folder, reason) from error
    if not queries.complete:
        reason = (
            f"some layers of {type(model).__name__} do not attend through transformers' attention "
            "interface"
        )
        raise UnsupportedModel(checkpoint.folder, reason)
    cache.reset()
    queries.reset()
    return decoder
