# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint's tokenizer, and what ends a response."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from timebill_ros.engine.weights import LOCAL

_LOG = logging.getLogger(__name__)

# What a generation_config.json may ask for that is not applied, with what asks for nothing.
_PENALTIES: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, by the rules of its tokenizer.json where it has one.

    AutoTokenizer takes the class of the model's type instead, whose rules replace those of the
    file: digits one by one for Qwen2, a blank before the text for Llama.
    """
    from_file = (folder / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if from_file else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, **LOCAL)
    return tokenizer


def eos_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a response, by the model's configuration and by the tokenizer.

    The model's are those of generation_config.json, or of config.json where that names none.

    Where a chat template ends turns by a token that only the tokenizer names, a model would run
    past it.
    """
    found: set[int] = set()
    for config in (model.generation_config, model.config):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            found = {eos} if isinstance(eos, int) else set(eos)
            break
    own = tokenizer.eos_token_id
    if isinstance(own, int) and own not in found:
        if found:
            _LOG.info("%s ends an answer too: only the tokenizer names it", tokenizer.eos_token)
        found.add(own)
    return frozenset(found)


def tell_generation_config(folder: Path) -> None:
    """Log what the checkpoint's generation_config.json asks for and does not get."""
    path = folder / "generation_config.json"
    try:
        asked = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:  # transformers has read it before, or refused it
        return
    penalties = {
        name: asked[name]
        for name, nothing in _PENALTIES.items()
        if asked.get(name) not in (None, nothing)
    }
    if penalties:
        _LOG.warning("generation_config.json asks for what is not applied: %s", _listed(penalties))
    if asked.get("do_sample"):
        sampling = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
        _LOG.info(
            "generation_config.json asks for sampling (%s); the parameters temperature, top_p and "
            "seed decide",
            _listed(sampling),
        )


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
