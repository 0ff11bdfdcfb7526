# SPDX-License-Identifier: Apache-2.0
"""Both kinds of checkpoint, whole and damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from timebill_ros.predictor.embedded_predictor import EmbeddedPredictor
from timebill_ros.predictor.errors import (
    BucketMismatch,
    PredictorError,
    PredictorIncomplete,
    PredictorNotFound,
    PredictorNotSafetensors,
)
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.predictor.sequence_classifier import SequenceClassifierPredictor


def edit(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.fixture(params=["embedded", "classifier"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_the_configuration_tells_the_kind(embedded: Path, classifier: Path) -> None:
    assert isinstance(load_predictor(embedded), EmbeddedPredictor)
    assert isinstance(load_predictor(str(classifier)), SequenceClassifierPredictor)


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (rename_weights, PredictorNotSafetensors, "safe_serialization=True"),
        (truncate_weights, PredictorIncomplete, "model.safetensors|transformers cannot read"),
        (drop_a_weight, PredictorIncomplete, "Missing key|weights are missing|cannot be used"),
        (lambda f: (f / "config.json").unlink(), PredictorIncomplete, "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), PredictorIncomplete, "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), PredictorIncomplete, "JSON object"),
        (lambda f: edit(f, bucket_size=None), PredictorIncomplete, "bucket_size is None"),
        (lambda f: edit(f, bucket_size=0), PredictorIncomplete, "bucket_size is 0"),
        (lambda f: edit(f, longest_response="9"), PredictorIncomplete, "longest_response is '9'"),
        (lambda f: edit(f, longest_response=400), BucketMismatch, "7 classes.*16 makes 25"),
        (lambda f: edit(f, bucket_size=8), BucketMismatch, "7 classes.*8 makes 13"),
    ],
)
def test_damage_is_named(
    folder: Path, damage: Callable[[Path], object], error: type[PredictorError], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load_predictor(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_path_that_is_no_directory_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PredictorNotFound, match=name):
        load_predictor(tmp_path / name)


def test_code_in_the_checkpoint_is_never_run(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (classifier / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    code = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    edit(classifier, model_type="evil", auto_map=code)
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked whether to run the code"))
    with pytest.raises(PredictorIncomplete, match="transformers cannot read it"):
        load_predictor(classifier)


def test_weights_of_another_size_are_refused(embedded: Path) -> None:
    edit(embedded, vocabulary=51)
    with pytest.raises(PredictorIncomplete, match="size mismatch"):
        load_predictor(embedded)
