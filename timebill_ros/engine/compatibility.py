# SPDX-License-Identifier: Apache-2.0
"""Which models the engine can run, told from their configuration."""

from __future__ import annotations

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from timebill_ros.engine.errors import UnsupportedModel


def check_config(config: PreTrainedConfig, model: object) -> None:
    """Raise ``UnsupportedModel`` unless every layer is full rotary attention of a causal LM."""
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    architectures = config.architectures or [str(causal)]
    if causal not in architectures:
        kind = config.model_type if causal is None else architectures[0]
        raise UnsupportedModel(model, f"{kind} is not a causal language model")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(model, "it is an encoder-decoder")
    other = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if other:
        kinds = ", ".join(sorted(other))
        raise UnsupportedModel(model, f"it has {kinds} layers; only full_attention is supported")
    rope = getattr(config, "rope_parameters", None)
    if not rope or "rope_type" not in rope:
        raise UnsupportedModel(model, "its positions are not rotary (no rope_parameters)")


def max_positions(config: PreTrainedConfig) -> int:
    """Tokens that the model can hold in one cache.

    LongRoPE changes every frequency where a sequence grows past its original length; the keys
    cached before would no longer match, so that length is the limit.
    """
    rope = config.rope_parameters
    if rope["rope_type"] == "longrope":
        return int(rope["original_max_position_embeddings"])
    return int(config.max_position_embeddings)


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Tokens that the model's attention reaches back, if limited.

    A number that is left over in a configuration limits nothing: where every layer is told to be
    full attention, or where the model's type knows no window.
    """
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True) or getattr(config, "layer_types", None):
        return None
    if not hasattr(type(config)(), "sliding_window"):
        return None
    return None if window is None else int(window)
