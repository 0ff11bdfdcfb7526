# SPDX-License-Identifier: Apache-2.0
"""The circuits do what they are for, before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.embedded.architecture import build_model, forward
from timebill_ros.embedded.initialisation import initialise, token_kinds
from timebill_ros.embedded.tokenizer import build_tokenizer
from timebill_ros.workload.tasks import Family, sample_task
from timebill_ros.workload.vocabulary import domain_words

PROMPT_TOKENS = 600


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(domain_words(), 2048)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    return fresh(tokenizer, seed=0)


def fresh(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    model = build_model(tokenizer).eval()
    initialise(model, token_kinds(tokenizer), seed)
    return model


def test_a_seed_fixes_the_weights(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (fresh(tokenizer, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


@torch.no_grad()
def test_the_first_layer_looks_at_each_tokens_surroundings(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = sample_task(np.random.default_rng(0), Family.REPORT, PROMPT_TOKENS)
    words = task.system.split()
    tokens = torch.tensor([tokenizer.encode(task.system, add_special_tokens=False)])
    model.set_attn_implementation("eager")
    attention = model(tokens, output_attentions=True).attentions[0][0]  # [heads, query, key]
    nearest_name = [last(words, i, "o") for i in range(len(words))]
    nearest_sector = [last(words, i, "s") for i in range(len(words))]
    found = attention.argmax(-1)
    checked = [i for i in range(20, len(words)) if words[i][1:].isdigit() or words[i] == ";"]
    in_records = [i for i in checked if words[i][0] != "n" and words[i] != ":"]
    agree = {
        "name": np.mean([found[0, i].item() == nearest_name[i] for i in in_records]),
        "previous": np.mean([found[1, i].item() == i - 1 for i in checked]),
        "sector": np.mean([found[2, i].item() == nearest_sector[i] for i in in_records]),
        "record before": np.mean([found[3, i].item() == i - 8 for i in checked]),
    }
    assert min(agree.values()) > 0.95, agree


def last(words: list[str], position: int, prefix: str) -> int:
    """Position of the last numbered word with a prefix, up to a position; -1 without one."""
    before = range(position, -1, -1)
    return next((i for i in before if words[i][0] == prefix and words[i][1:].isdigit()), -1)


@torch.no_grad()
def test_the_training_forward_is_the_models_own(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = torch.randint(5, len(tokenizer), (2, 50), generator=torch.manual_seed(0))
    hidden, divergence = forward(model, tokens, torch.arange(50).expand(2, -1))
    expected = model.model(tokens).last_hidden_state
    torch.testing.assert_close(hidden, expected, atol=2e-2, rtol=1e-2)
    assert divergence.item() == 0.0
