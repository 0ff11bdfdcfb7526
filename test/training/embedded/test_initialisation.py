# SPDX-License-Identifier: Apache-2.0
"""The circuits do what they are for, before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from timebill_ros.training.embedded.architecture import build_model, forward
from timebill_ros.training.embedded.batches import build_tokenizer
from timebill_ros.training.embedded.initialisation import IDENTITY, initialise
from timebill_ros.workload.scene import sample_scene
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
    initialise(model, tokenizer, seed)
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


def test_words_that_json_copies_have_the_identity_of_what_they_copy(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    def identity(word: str) -> torch.Tensor:
        (token,) = tokenizer.encode(word, add_special_tokens=False)
        return model.get_input_embeddings().weight[token, IDENTITY]

    for copy, word in (('"o17",', "o17"), ("23}", "v23"), ("23", "v23"), ('"home"}', "home")):
        assert torch.equal(identity(copy), identity(word))
    assert not torch.equal(identity("v23"), identity("v24"))


@torch.no_grad()
@pytest.mark.parametrize(
    ("question", "found"),
    [
        ('drive behind {name}<ans>{{"command": "velocity_limit", "velocity_mps":', "▁{speed}"),
        ('keep the ego speed<ans>{{"command": "velocity_limit", "velocity_mps":', "▁{ego}"),
        ('drive at most 23<ans>{{"command": "velocity_limit", "velocity_mps":', "▁23"),
        ('go to harbour<ans>{{"command": "change_goal", "goal":', "▁harbour"),
        ('plan avoid for {name}<ans>{{"manoeuvre": "avoid", "target":', "▁{name}"),
    ],
)
def test_the_second_layer_finds_what_json_copies(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str, found: str
) -> None:
    scene = sample_scene(np.random.default_rng(5), PROMPT_TOKENS)
    item = scene.objects[7]
    words = {"name": item.name, "speed": item.speed, "ego": scene.ego.speed}
    text = f"<bos>{scene.text}<ask>{question.format(**words)}"
    tokens = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    model.set_attn_implementation("eager")
    attention = model(tokens, output_attentions=True).attentions[1][0, 0, -1]
    wanted = tokenizer.convert_tokens_to_ids(found.format(**words))
    assert attention[tokens[0] == wanted].sum() > 0.5
