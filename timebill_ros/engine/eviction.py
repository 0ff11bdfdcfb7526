# SPDX-License-Identifier: Apache-2.0
"""The eviction methods by name, and evicting a prompt's tokens from the cache by one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import ObservationWindow
from timebill_ros.engine.eviction_methods import (
    ChunkKV,
    CriticalKV,
    EvictionMethod,
    KeyNorm,
    LayerPrompt,
    RandomTokens,
    SnapKV,
    StreamingLLM,
    output_projections,
)
from timebill_ros.engine.kv_cache import KVCache

EVICTION_METHODS: Mapping[str, Callable[[SnapKV, PreTrainedModel], EvictionMethod]] = {
    "snapkv": lambda attention, _model: attention,
    "chunkkv": lambda attention, _model: ChunkKV(attention),
    "criticalkv": lambda attention, model: CriticalKV(output_projections(model), attention),
    "key_norm": lambda _attention, _model: KeyNorm(),
    "streaming_llm": lambda _attention, _model: StreamingLLM(),
    "random": lambda _attention, _model: RandomTokens(),
}
"""Makes a method, given what scores attention for those that ask for it, and the model."""


def make_eviction_method(name: str, *, kernel: int, model: PreTrainedModel) -> EvictionMethod:
    """The method of that name.

    Args:
        name: one of ``EVICTION_METHODS``.
        kernel: width of the pooling that smooths attention scores, odd.
        model: whose cache is to be evicted from.

    Raises:
        SettingError: no such method, or a kernel out of range.
        UnsupportedModel: the method needs what the model does not have.
    """
    if name not in EVICTION_METHODS:
        raise SettingError("eviction_method", name, f"one of {', '.join(EVICTION_METHODS)}")
    return EVICTION_METHODS[name](SnapKV(kernel), model)


class PromptEviction:
    """Evicts the prompt tokens of one request that its method does not keep.

    The scores are computed at the first eviction and follow the kept tokens, so later evictions of
    the same request are nested: they drop from what is left, by the same scores.
    """

    def __init__(
        self, cache: KVCache, observation: ObservationWindow, method: EvictionMethod
    ) -> None:
        self.method = method
        self._cache = cache
        self._observation = observation
        self._scores: Tensor | None = None  # [..., layers * KV, n]: a few large operations for all
        self._prompt_tokens = 0
        self.kept_tokens = 0

    def by(self, method: EvictionMethod) -> PromptEviction:
        """The same prompt, before any eviction, to be evicted from by another method."""
        other = PromptEviction(self._cache, self._observation, method)
        other.begin(self._prompt_tokens)
        return other

    def begin(self, prompt_tokens: int) -> None:
        """Take a new prompt, whose tokens will all be in the cache before ``evict`` is called."""
        self._scores = None
        self._prompt_tokens = prompt_tokens
        self.kept_tokens = prompt_tokens

    def evict(self, kept_tokens: int) -> None:
        """Shrink the prompt's part of the cache to ``kept_tokens`` per head.

        Raises:
            SettingError: less than the observation window or more than what is cached.
        """
        window = min(self._observation.size, self._prompt_tokens)
        if not window <= kept_tokens <= self.kept_tokens:
            bound = f"from {window} (observation window) to {self.kept_tokens} (cached prompt)"
            raise SettingError("kept_tokens", kept_tokens, bound)
        if kept_tokens == self.kept_tokens:
            return
        if self._scores is None:
            self._scores = torch.cat(self.scores(), -2)
        kept = self.method.keep(self._scores, kept_tokens - window)
        self._cache.compact(kept.chunk(self._cache.layers), end=self.kept_tokens - window)
        self._scores = self._scores.gather(-1, kept.expand(*self._scores.shape[:-1], -1))
        self.kept_tokens = kept_tokens

    def scores(self) -> list[Tensor]:
        """The method's scores of the whole prompt before the window, one tensor per layer."""
        return [self.method.scores(self._prompt(layer)) for layer in range(self._cache.layers)]

    def _prompt(self, layer: int) -> LayerPrompt:
        keys, values = self._cache.rows(layer)[:, :, : self._prompt_tokens]
        return LayerPrompt(layer, self._observation.attention(layer), keys, values)
