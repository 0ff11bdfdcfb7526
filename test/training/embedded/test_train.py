# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from timebill_ros.training.embedded.architecture import build_model
from timebill_ros.training.embedded.batches import build_tokenizer
from timebill_ros.training.embedded.initialisation import initialise
from timebill_ros.training.embedded.train import CurriculumStage, Progress, save, train
from timebill_ros.workload.vocabulary import domain_words

STAGE = CurriculumStage(steps=8, length=256, scene_share=0.5, reach=512, attention_weight=0.1)


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_repeat(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(domain_words(), 1024)
    runs: list[list[Progress]] = []
    for _ in range(2):
        model = build_model(tokenizer)
        initialise(model, tokenizer, seed=0)
        runs.append([])
        report = runs[-1].append
        train(model, tokenizer, seed=0, curriculum=(STAGE,), report=report, report_every=4)
    first, again = ([(p.step, p.tokens, p.loss) for p in run] for run in runs)
    assert first == again
    assert [step for step, _, _ in first] == [4, 8]
    assert first[-1][2] < first[0][2]
    save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
