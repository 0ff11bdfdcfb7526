# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from timebill_ros.engine.checkpoint import Checkpoint, load_checkpoint, target_fingerprint
from timebill_ros.runtime import profiling
from timebill_ros.runtime.loading import load
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.predictor_match import mismatches
from timebill_ros.runtime.settings import Settings

EMBEDDED = Path(model_folder(Settings()))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(EMBEDDED)


@pytest.fixture
def predictor(tmp_path: Path) -> Path:
    """A copy of the embedded predictor that says it was trained for the embedded model."""
    folder = Path(shutil.copytree(EMBEDDED.parent / "predictor", tmp_path / "predictor"))
    edit(folder, target=target_fingerprint(EMBEDDED), target_id="embedded")
    return folder


def edit(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_what_it_was_trained_for_is_nothing_to_speak_of(
    predictor: Path, checkpoint: Checkpoint
) -> None:
    assert list(mismatches(predictor, checkpoint, Settings())) == []


def test_another_target_is_named_beside_the_right_one(
    predictor: Path, checkpoint: Checkpoint
) -> None:
    edit(predictor, target="0123456789abcdef", target_id="some/other")
    (sentence,) = mismatches(predictor, checkpoint, Settings())
    assert "some/other (fingerprint 0123456789abcdef)" in sentence
    assert f"embedded (fingerprint {target_fingerprint(EMBEDDED)})" in sentence


def test_other_decoding_is_named(predictor: Path, checkpoint: Checkpoint) -> None:
    edit(predictor, decoding={"temperature": 0.0, "stop": ["END"]})
    settings = Settings(temperature=0.7, top_p=0.9, seed=3)
    temperature, stop = mismatches(predictor, checkpoint, settings)
    assert "temperature 0.0, but temperature is 0.7" in temperature
    assert "stop ['END'], but stop is []" in stop
    assert list(mismatches(predictor, checkpoint, Settings(stop=("END",)))) == []


def test_answers_beyond_the_buckets_are_named(predictor: Path, checkpoint: Checkpoint) -> None:
    longest = json.loads((predictor / "config.json").read_text())["longest_response"]
    (sentence,) = mismatches(predictor, checkpoint, Settings(max_tokens=longest + 1))
    assert f"longest_response {longest} tokens, but max_tokens is {longest + 1}" in sentence


def test_what_is_not_known_is_not_compared(predictor: Path, checkpoint: Checkpoint) -> None:
    edit(predictor, target=None, decoding=None)
    assert list(mismatches(predictor, checkpoint, Settings(temperature=0.7))) == []


def test_loading_warns(
    predictor: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    edit(predictor, target="0123456789abcdef", target_id="some/other")

    def enough(*_: object) -> None:
        raise KeyboardInterrupt  # profiling would come next

    monkeypatch.setattr(profiling, "describe_environment", enough)
    caplog.set_level(logging.WARNING)
    with pytest.raises(KeyboardInterrupt):
        load(Settings(predictor=str(predictor), profile_cache=str(tmp_path)), lambda *_: None)
    assert "trained for the target some/other" in caplog.text
