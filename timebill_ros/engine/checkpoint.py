# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: safetensors only, no remote code, full rotary attention only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import AttentionShape
from timebill_ros.engine.device import usable_device, warn_if_emulated
from timebill_ros.engine.errors import (
    BrokenCheckpoint,
    CheckpointNotFound,
    NotSafetensors,
    UnsupportedModel,
)
from timebill_ros.engine.hub import hub_folder
from timebill_ros.engine.tokenizer import eos_tokens, load_tokenizer, tell_generation_config
from timebill_ros.engine.weights import LOCAL, load_weights, reading

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_ROUNDED_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.6}  # with their scales
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded causal language model with its tokenizer.

    ``eos_tokens`` are the tokens that end a response; ``max_positions`` is the longest sequence
    that it can run.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_tokens: frozenset[int]
    max_positions: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the cache."""
        return self.model.dtype

    def check_context(self, max_context: int) -> None:
        """Check that every layer attends over ``max_context`` tokens.

        Raises:
            SettingError: the model has fewer positions.
            UnsupportedModel: its sliding window is shorter.
        """
        if not 2 <= max_context <= self.max_positions:
            bound = f"from 2 to {self.max_positions} (the model's positions)"
            raise SettingError("max_context", max_context, bound)
        reach = sliding_window(self.model.config)
        if reach is not None and reach < max_context:
            reason = f"its sliding window of {reach} tokens is shorter than max_context"
            raise UnsupportedModel(self.folder, f"{reason} {max_context}; lower max_context")


def load_checkpoint(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    waiting: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Load a causal language model.

    Args:
        model: a checkpoint's directory, or a hub id, of which only configuration, tokenizer and
            safetensors are downloaded, and only where the local cache has not got it.
        device: "cpu", "cuda", "cuda:1", ...
        dtype: "float32", "bfloat16", "float16", or "auto" (float32 on CPU, bfloat16 elsewhere).
        waiting: called while the hub is waited for; may raise to end it.

    Raises:
        CheckpointNotFound: no such directory, and no reachable hub id.
        BrokenCheckpoint: a file is missing or damaged.
        NotSafetensors: only pickled weights.
        UnsupportedModel: not a causal language model with full rotary attention in every layer, or
            quantised in a way that config.json does not name.
        DeviceUnavailable, SettingError: ``device`` or ``dtype`` is not usable.
    """
    target = usable_device("device", device)
    element = _dtype(dtype, target)
    warn_if_emulated("dtype", dtype, target)
    folder = checkpoint_folder(model, waiting)
    _check_files(folder)
    with reading(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, **LOCAL)
    check_config(config, folder)
    with reading(folder, "the tokenizer"):
        tokenizer = load_tokenizer(folder)
    network = load_weights(folder, config, element, target)
    tell_generation_config(folder)
    ends = eos_tokens(network, tokenizer)
    return Checkpoint(folder, network, tokenizer, ends, max_positions(config))


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in _DTYPES:
        raise SettingError("dtype", name, f"one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def checkpoint_folder(model: str | Path, waiting: Callable[[], None] = lambda: None) -> Path:
    """The checkpoint's directory; that of a hub id is in the hub's cache, see ``hub_folder``.

    Raises:
        CheckpointNotFound: no such directory, and no reachable hub id.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        reason = "a GGUF file is made a checkpoint's directory by `timebill_ros import-gguf"
        raise CheckpointNotFound(str(model), f"{reason} {model} OUT`; give OUT as the model")
    if path.exists():
        raise CheckpointNotFound(str(model), "it is a file, not a checkpoint's directory")
    if isinstance(model, Path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise CheckpointNotFound(str(model), "no such directory")
    return hub_folder(model, waiting)


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BrokenCheckpoint(folder, "config.json is missing")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pt*")
        )
        if pickled:
            raise NotSafetensors(folder, ", ".join(pickled))
        raise BrokenCheckpoint(folder, "no *.safetensors weights")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise BrokenCheckpoint(folder, f"no tokenizer (none of {', '.join(_TOKENIZERS)})")


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


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes: its weights once loaded, and a token's keys and values."""

    weights: int
    per_token: int
    max_positions: int


def memory_need(folder: Path, *, device: str, dtype: str, kept: str) -> MemoryNeed:
    """What a checkpoint will take, told by its headers alone.

    Args:
        folder: the checkpoint's directory.
        device: where it is to run.
        dtype: of its weights and cache, see ``load_checkpoint``.
        kept: how rounded weights are kept beside them, "int8" say; "auto" or "" for none.

    Raises:
        BrokenCheckpoint: its files cannot be read.
        DeviceUnavailable, SettingError: ``device`` or ``dtype`` is not usable.
    """
    element = _dtype(dtype, usable_device("device", device))
    _check_files(folder)
    with reading(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, **LOCAL)
    check_config(config, folder)
    with reading(folder, "the weights"):
        weights = sum(map(_elements, folder.glob("*.safetensors")))
    beside = 0.0 if kept == str(element).removeprefix("torch.") else _ROUNDED_BYTES.get(kept, 0.0)
    shape = AttentionShape.told_by(config, element, torch.device(device))
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * element.itemsize
    return MemoryNeed(
        round(weights * (element.itemsize + beside)), per_token, max_positions(config)
    )


def _elements(path: Path) -> int:
    """Numbers in a file of weights."""
    with safe_open(path, framework="pt") as tensors:
        names = tensors.keys()
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


# What decides how a prompt becomes tokens, beside the weights and their configuration.
_SMALL_FILES = ("config.json", "tokenizer*", "chat_template*", "vocab.*", "merges.txt")
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024
_FINGERPRINT_DIGITS = 16


def checkpoint_digest(folder: Path) -> str:
    """Hash of a checkpoint's configuration, tokenizer, chat template and weights.

    Small files are read whole; of large ones the beginning, which holds the tensors' names and
    shapes, and samples spread over the rest: reading tens of gigabytes would take longer than
    profiling. How weights are cut into files counts too.
    """
    digest = hashlib.sha256()
    small = {path for pattern in _SMALL_FILES for path in folder.glob(pattern) if path.is_file()}
    for path in [*sorted(small), *sorted(folder.glob("*.safetensors"))]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        stride = max(_SAMPLE_BYTES, size // _SAMPLES)
        with path.open("rb") as file:
            for offset in range(0, size, stride):
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def target_fingerprint(folder: Path) -> str:
    """Identify a target model, 16 hex digits: what its length predictor was trained for."""
    return checkpoint_digest(folder)[:_FINGERPRINT_DIGITS]
