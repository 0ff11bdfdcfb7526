# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: safetensors only, no remote code, full rotary attention only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.compatibility import check_config, max_positions, sliding_window
from timebill_ros.engine.device import usable_device
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
