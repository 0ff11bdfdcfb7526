# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: safetensors only, no remote code, full rotary attention only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.attention import IMPLEMENTATION
from timebill_ros.engine.compatibility import check_config, max_positions, sliding_window
from timebill_ros.engine.errors import (
    BrokenCheckpoint,
    CheckpointNotFound,
    DeviceUnavailable,
    NotSafetensors,
    UnsupportedModel,
)
from timebill_ros.engine.hub import hub_folder

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Left out, transformers would ask on the terminal whether to run a checkpoint's code.
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded causal language model with its tokenizer.

    ``eos_tokens`` are the tokens that end a response (``generation_config`` first, then
    ``config``); ``max_positions`` is the longest sequence that it can run.
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
        UnsupportedModel: not a causal language model with full rotary attention in every layer.
        DeviceUnavailable, SettingError: ``device`` or ``dtype`` is not usable.
    """
    target = usable_device("device", device)
    element = _dtype(dtype, target)
    folder = checkpoint_folder(model, waiting)
    _check_files(folder)
    with _reading(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, **LOCAL)
    check_config(config, folder)
    with _reading(folder, "the tokenizer"):
        tokenizer = load_tokenizer(folder)
    network = _load_model(folder, config, element, target)
    return Checkpoint(folder, network, tokenizer, _eos_tokens(network), max_positions(config))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, of the class that it declares.

    AutoTokenizer replaces the generic class by the model type's own for some types, Qwen2 among
    them, and with it the rules of tokenizer.json by those of Qwen2's own vocabulary.
    """
    path = folder / "tokenizer_config.json"
    declared = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if declared.get("tokenizer_class") in _GENERIC_TOKENIZERS:
        return PreTrainedTokenizerFast.from_pretrained(folder, **LOCAL)
    return AutoTokenizer.from_pretrained(folder, **LOCAL)


def _load_model(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    disable_progress_bar()  # a node's log is no terminal
    with _reading(folder, "the weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=IMPLEMENTATION,
            output_loading_info=True,
            **LOCAL,
        )
    model, report = loaded
    # transformers would fill these with random numbers and go on.
    absent = sorted(report["missing_keys"])
    if absent:
        raise BrokenCheckpoint(folder, f"{len(absent)} weights are missing, first {absent[0]}")
    return model.to(device).eval().requires_grad_(False)


def usable_device(setting: str, name: str) -> torch.device:
    """The device of that name, which ``setting`` asks for, once something has run on it.

    Raises:
        DeviceUnavailable: this machine has none such.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceUnavailable(setting, name, str(error).splitlines()[0]) from error
    return device


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


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Name the checkpoint and the part when transformers cannot read it."""
    try:
        yield
    except Exception as error:  # the libraries below raise many kinds, down to plain Exception
        reason = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {reason[0] if reason else ''}"
        raise BrokenCheckpoint(folder, f"{what} cannot be read ({detail})") from error


def _eos_tokens(model: PreTrainedModel) -> frozenset[int]:
    for config in (model.generation_config, model.config):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()
