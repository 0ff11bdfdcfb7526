# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that come with the package: whole, small, and good at what they are for."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from timebill_ros.budget.quality import read_quality
from timebill_ros.engine.checkpoint import target_fingerprint
from timebill_ros.engine.eviction import EVICTION_METHODS
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.training.embedded.evaluate import held_out_tasks, score
from timebill_ros.training.embedded.generation import (
    CHECKPOINT,
    PREDICTOR,
    QUALITY,
    generate,
    open_engine,
)
from timebill_ros.workload.tasks import Family
from timebill_ros.workload.vocabulary import domain_words


@pytest.fixture(scope="module")
def engine() -> TransformerEngine:
    return open_engine(CHECKPOINT, threads=1)


@pytest.mark.parametrize("folder", [CHECKPOINT, PREDICTOR], ids=["model", "predictor"])
def test_a_checkpoint_is_small_and_holds_no_pickle_and_no_path(folder: Path) -> None:
    files = sorted(folder.iterdir())
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".csv"}
    assert sum(path.stat().st_size for path in files) < 10e6
    for path in files:
        if path.suffix == ".json":
            assert not re.search(r'"(/|~)\w', path.read_text())


def test_the_model_is_an_ordinary_checkpoint() -> None:
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT)
    assert model.config.model_type == "qwen2"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_every_word_of_the_workload_is_one_token() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(CHECKPOINT)
    for word in domain_words():
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1, word


@pytest.mark.parametrize("family", list(Family))
def test_held_out_tasks_are_answered(engine: TransformerEngine, family: Family) -> None:
    tasks = held_out_tasks(family, 400, 12)
    answers = [generate(engine, task) for task in tasks]
    scores = [score(family, a.text, t.reference) for a, t in zip(answers, tasks, strict=True)]
    assert np.mean(scores) >= 60.0, list(zip(tasks, answers, strict=True))


def test_instructions_work_without_a_scene_and_with_any_text(engine: TransformerEngine) -> None:
    for system, prompt in (("", "stop"), ("", "🚗 漢字 \x00 ?"), ("free text", "hello there")):
        engine.begin(engine.prepare(Conversation(system, prompt)), 30)
        while not engine.prefill_chunk():
            pass
        while engine.finish_reason is None:
            engine.step()
        assert engine.text().isprintable()


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_a_plan_survives_eviction(engine: TransformerEngine, alpha: float) -> None:
    task = held_out_tasks(Family.PLAN, 1024, 1)[0]
    answer = generate(engine, task, alpha)
    assert answer.finish_reason is FinishReason.EOS
    assert answer.text == task.reference


def test_the_quality_of_every_eviction_method_is_kept_beside_the_model() -> None:
    measured = read_quality(QUALITY)
    assert measured.eviction.keys() == EVICTION_METHODS.keys()
    # Nothing dropped, on the same tasks: the levers can be weighed against each other.
    (whole,) = {curve.points[0] for curve in measured.eviction.values()}
    assert whole == measured.selection["lexical"].points[0]


@pytest.mark.parametrize("method", ["streaming_llm", "random"])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 0.9])
def test_what_the_prompts_end_looks_at_is_worth_keeping(method: str, alpha: float) -> None:
    curves = read_quality(QUALITY).eviction
    assert curves["snapkv"].score(alpha) > curves[method].score(alpha)


def test_quality_falls_gradually() -> None:
    snapkv = read_quality(QUALITY).eviction["snapkv"]
    full = snapkv.score(0.0)
    assert snapkv.score(0.5) >= 0.9 * full
    assert snapkv.score(0.75) >= 0.8 * full
    assert snapkv.score(0.95) < 0.9 * full


def test_the_predictor_was_trained_for_this_model() -> None:
    config = json.loads((PREDICTOR / "config.json").read_text())
    assert config["target"] == target_fingerprint(CHECKPOINT)
    assert config["held_out"]["mae"] < config["held_out"]["mae_of_mean"]


def test_the_predictor_tells_short_answers_from_long(engine: TransformerEngine) -> None:
    predictor = load_predictor(PREDICTOR)
    tasks = held_out_tasks(Family.REPORT, 800, 6) + held_out_tasks(Family.COMMAND, 800, 6)
    predicted = []
    for task in tasks:
        distribution = predictor.predict(
            "", engine.prepare(Conversation(task.system, task.instruction)).prompt_ids, None
        )
        assert distribution.probabilities.sum() == pytest.approx(1.0)
        predicted.append(distribution.predicted_tokens(400))
    actual = [task.reference_tokens for task in tasks]
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9


@pytest.mark.parametrize("folder", [CHECKPOINT, PREDICTOR], ids=["model", "predictor"])
def test_the_training_log_shows_the_loss_falling(folder: Path) -> None:
    with (folder / "training_log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.5 * losses[0]
