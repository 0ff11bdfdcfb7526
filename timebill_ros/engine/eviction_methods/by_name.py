# SPDX-License-Identifier: Apache-2.0
"""The eviction methods under the names that a user chooses them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import PreTrainedModel

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.eviction_methods.baselines import KeyNorm, RandomTokens, StreamingLLM
from timebill_ros.engine.eviction_methods.chunkkv import ChunkKV
from timebill_ros.engine.eviction_methods.criticalkv import CriticalKV, output_projections
from timebill_ros.engine.eviction_methods.method import EvictionMethod
from timebill_ros.engine.eviction_methods.snapkv import SnapKV

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
