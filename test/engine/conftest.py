# SPDX-License-Identifier: Apache-2.0
"""Small random checkpoints of every supported family, saved to disk once per session."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from timebill_ros.engine.checkpoint import Checkpoint, load_checkpoint
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine

SPECIAL = ["<pad>", "<s>", "</s>"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MAX_CONTEXT = 256
EOS = 2

# Weights far wider than at the start of a training, so that the greedy token changes from step to
# step.
COMMON = {
    "vocab_size": len(SPECIAL) + len(BYTES),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 256,
}
PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen2": lambda: Qwen2Config(**COMMON),
    "qwen3": lambda: Qwen3Config(**COMMON, head_dim=32),
    "llama": lambda: LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True),
    "llama3": lambda: LlamaConfig(**COMMON, rope_parameters=LLAMA3_ROPE),
    "llama_dynamic": lambda: LlamaConfig(**COMMON, rope_parameters=DYNAMIC_ROPE),
    "mistral": lambda: MistralConfig(**COMMON, sliding_window=None),
    "phi3": lambda: Phi3Config(**COMMON, sliding_window=None, rope_parameters=PARTIAL_ROPE),
    "phi3_long": lambda: Phi3Config(**COMMON, sliding_window=None, rope_parameters=LONGROPE),
}
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "mistral_sliding": lambda: MistralConfig(**COMMON, sliding_window=200),
    "granite": lambda: GraniteConfig(**COMMON, attention_multiplier=0.3),
    "olmo2": lambda: Olmo2Config(**COMMON),
}


CONFIGS = FAMILIES | OTHERS


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single bytes, so that characters span tokens."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL + BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def save_checkpoint(folder: Path, config: PreTrainedConfig, seed: int = 0) -> Path:
    """Write a random model of ``config`` and the byte tokenizer as a checkpoint directory."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        elif "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer of every checkpoint; not to be changed."""
    return byte_tokenizer()


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Name of a model family."""
    return str(request.param)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoint directory of a family."""
    root = tmp_path_factory.mktemp("checkpoints")

    return functools.cache(lambda name: save_checkpoint(root / name, CONFIGS[name]()))


@pytest.fixture(scope="session")
def checkpoint_of(folder_of: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    """Loaded checkpoint of a family."""
    return functools.cache(lambda name: load_checkpoint(folder_of(name)))


@pytest.fixture(scope="session")
def stock_of(folder_of: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    """The same checkpoint as transformers runs it, with eager attention."""

    @functools.cache
    def load(name: str) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(folder_of(name), attn_implementation="eager")
        return model.eval()

    return load


@pytest.fixture
def make_engine(
    checkpoint_of: Callable[[str], Checkpoint],
) -> Callable[..., TransformerEngine]:
    """Builds an engine over a family's checkpoint with small chunks."""

    def make(
        name: str = "qwen2", *, eos_tokens: Collection[int] = (EOS,), **settings: object
    ) -> TransformerEngine:
        merged = {"max_context": MAX_CONTEXT, "chunk": 32, "window": 8, **settings}
        checkpoint = replace(checkpoint_of(name), eos_tokens=frozenset(eos_tokens))
        return TransformerEngine(checkpoint, EngineSettings(**merged))

    return make


@pytest.fixture
def prompt_of() -> Callable[..., list[int]]:
    """Random prompt tokens of a given length."""

    def draw(tokens: int, seed: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(1000 * seed + tokens)
        return torch.randint(3, COMMON["vocab_size"], (tokens,), generator=generator).tolist()

    return draw


@pytest.fixture(scope="session")
def shipped_schema() -> Callable[[str], dict[str, object]]:
    """A JSON schema of the embedded workload by name."""
    folder = resources.files("timebill_ros.workload") / "schemas"
    return lambda name: json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
