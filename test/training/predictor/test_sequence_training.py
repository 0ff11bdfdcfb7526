# SPDX-License-Identifier: Apache-2.0
"""Training over tiny random backbones: the words of a prompt tell its length."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model, Trainer

from timebill_ros.budget.errors import SettingError
from timebill_ros.predictor.errors import BackboneUnusable, SettingsDiffer, TrainedAlready
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.training.predictor.assessment import length_quality
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, Split, split_pairs
from timebill_ros.training.predictor.sequence_training import (
    Recipe,
    discard_states,
    train_classifier,
)

HEADER = PairsHeader("some/model", "0123456789abcdef", 64, {"temperature": 0.0})
WORDS = ("short", "long", *"abcdefgh")
LENGTHS = {"short": 5, "long": 60}
RECIPE = Recipe(
    "tiny", "0" * 16, bucket_size=16, max_input=8, epochs=8, batch=8, learning_rate=1e-2
)


def sample_pairs(count: int) -> list[Pair]:
    fillers = (f"{a} {b} {c}" for a in WORDS[2:] for b in WORDS[2:] for c in WORDS[2:])
    kinds = (("short", "long")[n % 2] for n in range(count))
    return [
        Pair(f"{filler} {kind}", 4, LENGTHS[kind], "EOS")
        for kind, filler in zip(kinds, fillers, strict=False)
    ]


@pytest.fixture(scope="module")
def split() -> Split:
    return split_pairs(sample_pairs(80), seed=0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder without a pad token, whose tokenizer is not that of its type."""
    folder = tmp_path_factory.mktemp("backbone")
    vocabulary = {word: index for index, word in enumerate(("<eos>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    Qwen2Model(config).save_pretrained(folder)
    return folder


def train(split: Split, backbone: Path, output: Path, recipe: Recipe = RECIPE, **more: Any) -> bool:
    return train_classifier(split, HEADER, recipe, backbone, output, use_cpu=True, **more)


@pytest.fixture(scope="module")
def trained(split: Split, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "predictor"
    assert train(split, backbone, output)
    discard_states(output)
    return output


def test_what_was_learned_is_what_is_loaded(trained: Path, split: Split) -> None:
    predictor = load_predictor(trained, threads=1)
    predicted = [predictor.predict(pair.prompt, [], None) for pair in split.held_out]
    quality = length_quality(predicted, [p.response_tokens for p in split.held_out], 64)
    assert len(predicted[0].probabilities) == 4
    assert quality.bucket_accuracy == 1.0


def test_a_checkpoint_says_what_it_was_trained_for(trained: Path, split: Split) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert (config["bucket_size"], config["longest_response"], config["max_input"]) == (16, 64, 8)
    assert (config["target_id"], config["target"]) == ("some/model", "0123456789abcdef")
    assert config["decoding"] == {"temperature": 0.0}
    assert config["training"]["backbone"] == "tiny"
    assert config["training"]["steps"] == 64
    assert config["split"] == {"train": 64, "calibration": 8, "held_out": 8}
    with (trained / "training_log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses
    names = {path.name for path in trained.iterdir()}
    assert {path.suffix for path in trained.iterdir()} == {".json", ".safetensors", ".csv"}, names


def test_it_reads_no_more_than_it_was_trained_on(trained: Path) -> None:
    predictor = load_predictor(trained)
    long = "a b c d e f g h " * 4
    whole = predictor.predict(f"{long} short", [], None).probabilities
    kept = predictor.predict("a b c d f g h short", [], None).probabilities
    assert whole == pytest.approx(kept)


def test_a_finished_predictor_is_not_overwritten(
    trained: Path, split: Split, backbone: Path
) -> None:
    with pytest.raises(TrainedAlready, match="predictor"):
        train(split, backbone, trained)


class Interrupted(Exception):
    """Stands for a crash."""


def test_an_interrupted_training_goes_on_to_the_same_end(
    trained: Path,
    split: Split,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = []
    whole_step = Trainer.training_step

    def counted(self: Trainer, *args: Any, **more: Any) -> Any:
        steps.append(self.state.global_step)
        if len(steps) == 50:
            raise Interrupted
        return whole_step(self, *args, **more)

    monkeypatch.setattr(Trainer, "training_step", counted)
    output = tmp_path / "predictor"
    with pytest.raises(Interrupted):
        train(split, backbone, output, save_every=20)
    assert not (output / "config.json").exists()
    for changed in ({"learning_rate": 1e-3}, {"backbone_fingerprint": "1" * 16}):
        with pytest.raises(SettingsDiffer, match=next(iter(changed))):
            train(split, backbone, output, Recipe(**{**vars(RECIPE), **changed}))
    assert train(split, backbone, output, save_every=20)
    assert steps[49:52] == [49, 40, 41]  # the state of step 40 was the last one
    assert steps[-1] == 63
    text = "a b c long"
    assert load_predictor(output).predict(text, [], None).probabilities == pytest.approx(
        load_predictor(trained).predict(text, [], None).probabilities, abs=1e-4
    )


def test_a_longer_input_than_the_backbone_reads_is_named(
    split: Split, backbone: Path, tmp_path: Path
) -> None:
    recipe = Recipe(**{**vars(RECIPE), "max_input": 65})
    with pytest.raises(SettingError, match="max_input must be at most 64, what the backbone tiny"):
        train(split, backbone, tmp_path / "predictor", recipe)
    assert not (tmp_path / "predictor").exists()


def test_a_backbone_that_cannot_be_used_is_named(split: Split, tmp_path: Path) -> None:
    with pytest.raises(BackboneUnusable, match="nowhere"):
        train(split, tmp_path / "nowhere", tmp_path / "predictor")


@pytest.mark.parametrize(
    "bad", [{"bucket_size": 0}, {"max_input": 0}, {"epochs": 0.0}, {"learning_rate": -1.0}]
)
def test_a_recipe_that_cannot_work_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Recipe("tiny", "0" * 16, **bad)
