# SPDX-License-Identifier: Apache-2.0
"""GGUF files of small random models, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from .conftest import BYTES, COMMON, SPECIAL

MERGED = "th"
TOKENS = [*SPECIAL, *BYTES, MERGED]
SHAPE = {**COMMON, "vocab_size": len(TOKENS)}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_CONTROL, _NORMAL = 3, 1

Change = Callable[[gguf.GGUFWriter], None]


def reference_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that the files hold: single bytes, and one merge."""
    model = models.BPE({token: n for n, token in enumerate(TOKENS)}, [tuple(MERGED)])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@dataclass(frozen=True)
class GgufModel:
    """How a checkpoint is written.

    Attributes:
        checkpoint: folder of the model.
        architecture: its name in GGUF.
        tokenizer: whether there is one.
        split: ``tokenizer.ggml.pre``; None leaves it out.
        types: how tensors with this in their name are stored; the others as float32.
        without: tensors that are left out.
        extra: tensors that are added.
    """

    checkpoint: Path
    architecture: str
    tokenizer: bool = True
    split: str | None = "gpt-2"
    types: dict[str, gguf.GGMLQuantizationType] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    change: Change = lambda writer: None

    def write(self, file: Path) -> Path:
        """Write the file."""
        model = AutoModelForCausalLM.from_pretrained(self.checkpoint)
        writer = gguf.GGUFWriter(file, self.architecture)
        self._add_config(writer, model.config)
        if self.tokenizer:
            self._add_tokenizer(writer)
        self.change(writer)
        names = gguf.get_tensor_name_map(self._architecture, model.config.num_hidden_layers)
        weights_of = model.state_dict()
        if model.config.tie_word_embeddings:
            del weights_of["lm_head.weight"]
        for name, weights in weights_of.items():
            stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert stored is not None, name
            if stored not in self.without:
                self._add(writer, stored, self._permuted(name, weights, model.config).numpy())
        for name, numbers in self.extra.items():
            writer.add_tensor(name, numbers)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    @property
    def _architecture(self) -> gguf.MODEL_ARCH:
        return next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == self.architecture)

    def _add_config(self, writer: gguf.GGUFWriter, config: object) -> None:
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(width)
        writer.add_value_length(width)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
        if getattr(config, "sliding_window", None):
            writer.add_sliding_window(config.sliding_window)

    def _add_tokenizer(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if self.split is not None:
            writer.add_tokenizer_pre(self.split)
        writer.add_token_list(TOKENS)
        writer.add_token_types([_CONTROL if token in SPECIAL else _NORMAL for token in TOKENS])
        writer.add_token_merges([" ".join(MERGED)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        writer.add_chat_template(TEMPLATE)

    def _add(self, writer: gguf.GGUFWriter, name: str, numbers: np.ndarray) -> None:
        for part, kind in self.types.items():
            if part in name:
                writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
                return
        writer.add_tensor(name, numbers)

    def _permuted(self, name: str, weights: torch.Tensor, config: object) -> torch.Tensor:
        """Rows of Llama's queries and keys as llama.cpp turns them: pairs beside each other."""
        heads = {
            "q_proj": config.num_attention_heads,
            "k_proj": config.num_key_value_heads,
        }.get(name.split(".")[-2])
        if self.architecture != "llama" or heads is None:
            return weights
        rows = weights.reshape(heads, 2, len(weights) // heads // 2, *weights.shape[1:])
        return rows.transpose(1, 2).reshape(weights.shape).contiguous()
