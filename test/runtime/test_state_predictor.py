# SPDX-License-Identifier: Apache-2.0
"""A predictor that reads the target's own state, from its training to the plan's moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.checkpoint import load_checkpoint, target_fingerprint
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor import hidden_predictor
from timebill_ros.predictor.checkpoint import Buckets, read_calibration
from timebill_ros.predictor.errors import PredictorIncomplete
from timebill_ros.predictor.hidden_predictor import HiddenStatePredictor
from timebill_ros.runtime.loading import load
from timebill_ros.runtime.predictor_match import shipped_for
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.collection.collect import collect, describe_target
from timebill_ros.training.collection.prompts import Prompt
from timebill_ros.training.collection.states import StatesHeader
from timebill_ros.training.embedded.generation import CHECKPOINT
from timebill_ros.training.embedded.lengths import sample_tasks
from timebill_ros.training.predictor import train_states
from timebill_ros.training.predictor.pairs import seen_prompts

LONGEST = 96
TALKS = [
    Conversation(task.system, task.instruction) for task in sample_tasks(43, 60, 512, unseen=False)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor of the embedded model's answers, trained by the command."""
    where = tmp_path_factory.mktemp("states")
    checkpoint = load_checkpoint(CHECKPOINT)
    settings = EngineSettings(max_context=1024, window=16)
    engine = TransformerEngine(checkpoint, settings)
    header = describe_target("embedded", checkpoint, settings, LONGEST)
    states = StatesHeader((1, 2), 16, checkpoint.model.config.hidden_size)
    prompts = [Prompt(str(number), talk) for number, talk in enumerate(TALKS)]
    list(collect(engine, prompts, where / "p.jsonl", header, together=8, states=states))
    assert train_states.main([str(where / "p.jsonl"), str(where / "head")]) in (0, 1)
    return where / "head"


def settings_of(folder: Path, cache: Path, **others: object) -> Settings:
    return Settings(
        predictor=str(folder),
        max_context=1024,
        profile_cache=str(cache),
        profile_seconds=1.0,
        **others,  # type: ignore[arg-type]
    )


def test_the_prediction_is_there_once_prefill_is_over(folder: Path, tmp_path: Path) -> None:
    loaded = load(settings_of(folder, tmp_path), lambda share, doing: None)
    engine, service = loaded.engine, loaded.states
    assert service is not None
    assert loaded.predictor is None  # nothing runs beside prefill
    assert loaded.calibration is not None
    told = []
    for talk in TALKS[:4]:
        request = engine.prepare(talk)
        prediction = service.start(request.text, request.prompt_ids, 1)
        assert prediction.wait(1.0) is None
        engine.begin(request, LONGEST)
        while not engine.prefill_chunk():
            assert prediction.wait(1.0) is None
        lengths = prediction.wait(0.0)
        assert lengths is not None
        assert lengths.bucket_size == 16
        told.append(lengths.probabilities)
        engine.abort()
        assert prediction.wait(1.0) is None  # not the state of the request before
    assert np.ptp(np.stack(told), axis=0).max() > 0.01  # prompts differ
    service.close()


def test_it_is_as_trained(folder: Path) -> None:
    predictor = hidden_predictor.load(folder)
    assert predictor.buckets == Buckets(16, LONGEST)
    assert predictor.layer in (1, 2)
    state = np.zeros(predictor.width, np.float32)
    assert predictor.predict(state).probabilities.sum() == pytest.approx(1.0)


def test_one_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    own = hidden_predictor.load(folder)
    ones = np.ones(7, np.float32)
    narrow = HiddenStatePredictor(
        own.buckets, 1, ones, ones, np.ones((own.buckets.count, 7), np.float32), own.bias
    )
    hidden_predictor.save(tmp_path / "narrow", narrow, {})
    with pytest.raises(SettingError, match="7 wide states"):
        load(settings_of(tmp_path / "narrow", tmp_path), lambda share, doing: None)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("bias", None, "bias is not there"),
        ("scale", 0.0, "a scale is not above 0"),
        ("weight", float("nan"), "weight is not finite"),
    ],
)
def test_damaged_weights_are_named(
    folder: Path, tmp_path: Path, name: str, value: float | None, fault: str
) -> None:
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    arrays = load_file(folder / "model.safetensors")
    if value is None:
        del arrays[name]
    else:
        arrays[name] = np.full_like(arrays[name], value)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(PredictorIncomplete, match=fault):
        hidden_predictor.load(tmp_path)


def test_what_is_shipped_is_found_by_the_model_alone(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(CHECKPOINT)
    own = hidden_predictor.load(folder)
    hidden_predictor.save(tmp_path / "other", own, {"target": "0123456789abcdef"})
    assert shipped_for(checkpoint, tmp_path) is None
    hidden_predictor.save(tmp_path / "own", own, {"target": target_fingerprint(CHECKPOINT)})
    assert shipped_for(checkpoint, tmp_path) == tmp_path / "own"
    assert shipped_for(checkpoint, tmp_path / "nothing") is None


def test_worse_than_the_mean_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    buckets = Buckets(16, 64)
    short, long = (LengthDistribution(np.eye(4)[bucket], 16) for bucket in (0, 3))
    lengths = np.array([10, 60])
    assert train_states.report([long, short], lengths, lengths, buckets)
    assert "worse than the mean length" in capsys.readouterr().err
    assert not train_states.report([short, long], lengths, lengths, buckets)
    assert capsys.readouterr().err == ""


def test_lengths_that_never_occur_do_not_break_the_fit() -> None:
    states = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    states[:, 0] = np.where(states[:, 0] > 0.0, 3.0, -3.0)
    lengths = [8 if row[0] > 0.0 else 60 for row in states]
    predictor = train_states.fit(states, lengths, Buckets(4, 256), 1, 0.01)
    told = [predictor.predict(row).likeliest_tokens for row in states]
    assert told == lengths


def test_every_prompt_is_predicted_by_others_and_none_twice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, again = folder.parent / "p.jsonl", folder.parent / "again"
    assert train_states.main([str(pairs), str(again), "--seed", "1"]) in (0, 1)
    calibration = read_calibration(again)
    seen = seen_prompts(again)
    assert calibration is not None
    assert seen is not None
    assert calibration.pairs == len(seen) == 48  # four fifths both train and calibrate
    assert "| risk | covered | mean N_W |" in capsys.readouterr().out


def test_prompts_are_left_out_of_everything_by_their_digests(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = sorted(seen_prompts(folder) or ())[:5]
    (tmp_path / "prompts.txt").write_text("\n".join(unused) + "\n")
    without = ("--without", str(tmp_path / "prompts.txt"))
    pairs, again = folder.parent / "p.jsonl", tmp_path / "again"
    assert train_states.main([str(pairs), str(again), *without]) in (0, 1)
    kept = (again / "prompts.csv").read_text()
    assert not any(digest in kept for digest in unused)
    assert len(kept.splitlines()) == 1 + len(TALKS) - 5
    assert train_states.main([str(pairs), str(again), "--without", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
