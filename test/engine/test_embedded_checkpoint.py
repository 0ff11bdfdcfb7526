# SPDX-License-Identifier: Apache-2.0
"""The engine on the model that the package ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import timebill_ros.embedded
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.decoder import LeanDecoder
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.workload.tasks import Family, sample_task

EMBEDDED = Path(timebill_ros.embedded.__file__).parent
FOLDER = EMBEDDED / "checkpoint"


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(FOLDER)


@pytest.fixture(scope="module")
def stock():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("family", [Family.REPORT, Family.LIST, Family.COMMAND])
@pytest.mark.parametrize("prompt_tokens", [200, 1300])
def test_greedy_equals_generate(checkpoint, stock, family, prompt_tokens, lean):
    engine = TransformerEngine(checkpoint, EngineSettings(max_context=2048, chunk=256, lean=lean))
    assert isinstance(engine.decoder, LeanDecoder) is lean
    task = sample_task(np.random.default_rng(prompt_tokens), family, prompt_tokens)
    request = engine.prepare(Conversation(task.system, task.instruction))
    prompt = request.prompt_ids
    ids = torch.tensor([prompt])
    expected = stock.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60
    )
    engine.begin(request, 60)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    assert engine.response_ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", [Family.REPORT, Family.FIELD, Family.DRIVE])
def test_the_small_model_answers_what_it_can(family: Family) -> None:
    engine = TransformerEngine(load_checkpoint(EMBEDDED / "small"), EngineSettings(2048))
    task = sample_task(np.random.default_rng(7), family, 1300)
    engine.begin(engine.prepare(Conversation(task.system, task.instruction)), 400)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    assert engine.text().split() == task.reference.split()
