# SPDX-License-Identifier: Apache-2.0
"""Loading the model that the package ships, with settings at their limits."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.calibration import fit_calibration
from timebill_ros.budget.errors import QualityFileError, SettingError
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.quality import (
    QUALITY_FILE,
    LeverQuality,
    QualityCurve,
    QualityFile,
    QualityPoint,
    write_quality,
)
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.errors import DeviceUnavailable
from timebill_ros.engine.profile import least_context
from timebill_ros.engine.request import Conversation
from timebill_ros.predictor.checkpoint import write_calibration
from timebill_ros.predictor.errors import PredictorIncomplete
from timebill_ros.runtime import predictor_match
from timebill_ros.runtime.loading import Loaded, load, unmet_defaults
from timebill_ros.runtime.models import measured_levers, model_folder
from timebill_ros.runtime.predictor_match import known_calibration
from timebill_ros.runtime.settings import Settings


class Reader:
    """A predictor that keeps what it was given to read."""

    bucket_size = 16

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Sequence[int]]] = []

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        self.inputs.append((text, prompt_ids))
        return LengthDistribution(np.array([1.0]), self.bucket_size)


def loaded(folder: Path, *, max_context: int, window: int) -> Loaded:
    settings = Settings(
        max_context=max_context,
        window=window,
        profile_cache=str(folder),
        profile_seconds=1.0,
    )
    return load(settings, lambda share, doing: None)


@pytest.mark.parametrize(("max_context", "window"), [(16, 64), (64, 64), (512, 512)])
def test_a_context_that_is_too_small_for_the_window_is_named(
    tmp_path: Path, max_context: int, window: int
) -> None:
    message = f"max_context must be >= {least_context(window)} for a window of {window}"
    with pytest.raises(SettingError, match=message) as caught:
        loaded(tmp_path, max_context=max_context, window=window)
    assert caught.value.setting == "max_context"


@pytest.mark.parametrize("window", [1, 64, 512])
def test_the_least_context_loads(tmp_path: Path, window: int) -> None:
    engine = loaded(tmp_path, max_context=least_context(window), window=window).engine
    assert engine.max_context == least_context(window)


def test_a_predictor_is_measured_on_words_and_tokens_of_the_same_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    monkeypatch.setattr(predictor_match, "load_predictor", lambda *_, **__: reader)
    engine = loaded(tmp_path, max_context=1500, window=64).engine
    lengths = {len(ids) for _, ids in reader.inputs}
    assert len(lengths) >= 5
    for text, ids in reader.inputs:
        assert len(engine.prepare(Conversation("", text)).prompt_ids) == pytest.approx(
            len(ids), rel=0.05, abs=8
        )


@pytest.fixture
def predictor(tmp_path: Path) -> Path:
    """A copy of the embedded model's predictor, without a calibration."""
    folder = tmp_path / "predictor"
    shutil.copytree(Path(model_folder(Settings())).parent / "predictor", folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("calibration", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_predictor_without_calibration_is_said_to_have_none(
    predictor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert known_calibration(predictor) is None
    assert caplog.text.count("is not calibrated: with risk set, plans are made for N_W") == 1


def test_a_predictor_brings_its_calibration(
    predictor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = LengthDistribution(np.array([0.5, 0.5]), 16)
    write_calibration(predictor, fit_calibration([lengths] * 30, [20] * 30))
    settings = Settings(
        predictor=str(predictor),
        max_context=least_context(64),
        profile_cache=str(predictor.parent),
        profile_seconds=1.0,
    )
    calibration = load(settings, lambda share, doing: None).calibration
    assert calibration is not None
    assert calibration.pairs == 30
    assert "not calibrated" not in caplog.text


def test_a_damaged_calibration_fails_loading_by_name(predictor: Path) -> None:
    path = predictor / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": {"pairs": 3}}))
    with pytest.raises(PredictorIncomplete, match="calibration: 'levels' is missing"):
        known_calibration(predictor)


def test_a_model_brings_what_was_measured_of_its_levers() -> None:
    embedded, selection = measured_levers(Settings())
    blind, none = measured_levers(Settings(eviction_method="random", selection="none"))
    assert embedded.measured
    assert embedded.score(1.0, 0.5) > blind.score(1.0, 0.5) + 20.0
    assert embedded.selection is not None
    assert selection is not None
    assert (none, blind.selection) == (None, None)


def test_the_small_model_of_the_package_brings_its_own_price() -> None:
    small = Settings(model="embedded-small")
    folder = Path(model_folder(small))
    of_large = Path(model_folder(Settings()))
    same = "tokenizer.json"  # so that prompts, and the length predictor's input, are the same
    assert (folder / same).read_bytes() == (of_large / same).read_bytes()
    quality, large = measured_levers(small)[0], measured_levers(Settings())[0]
    assert quality.measured
    assert 50.0 < quality.score(1.0, 0.0) < large.score(1.0, 0.0)


def test_prompts_stay_whole_where_selection_was_not_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Settings(model=str(tmp_path))
    quality, selection = measured_levers(mine)
    assert (quality.measured, selection) == (False, None)
    assert "has no quality curve of the eviction method 'snapkv'" in caplog.text
    curve = QualityCurve((QualityPoint(0.0, 90.0, 1.0, 0.0),))
    write_quality(tmp_path / QUALITY_FILE, QualityFile({"snapkv": curve}, {"recent": curve}))
    quality, selection = measured_levers(mine)
    assert quality == LeverQuality(curve, curve, measured=True)
    assert selection is not None
    quality, selection = measured_levers(replace(mine, selection="lexical"))
    assert (quality.selection, selection) == (None, None)
    assert "no quality curve of the selection method 'lexical': prompts stay whole" in caplog.text


def test_a_bad_quality_file_or_share_is_named(tmp_path: Path) -> None:
    (tmp_path / QUALITY_FILE).write_text("[]")
    with pytest.raises(QualityFileError, match=r"quality\.json"):
        measured_levers(Settings(model=str(tmp_path)))
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(SettingError, match="rho_min"):
            measured_levers(Settings(rho_min=share))
    with pytest.raises(SettingError, match="selection must be one of lexical"):
        measured_levers(Settings(selection="best"))


def test_a_device_that_is_not_there_is_named_with_its_parameter(predictor: Path) -> None:
    settings = Settings(predictor=str(predictor), predictor_device="nowhere")
    with pytest.raises(DeviceUnavailable, match="predictor_device 'nowhere' cannot be used"):
        load(settings, lambda share, doing: None)


def test_defaults_that_no_plan_can_meet_are_told_with_what_fits() -> None:
    """10 ms a step and none for the cache: 2 s are 200 steps, and so 201 tokens."""
    model = TimeModel(a=0.0, b=0.0, c=0.0, p=0.0, q=0.01)
    assert unmet_defaults(Settings(max_tokens=201, default_budget=2.0), model) == ""
    told = unmet_defaults(Settings(max_tokens=400, default_budget=2.0), model)
    assert "max_tokens (400) takes 3.99 s, default_budget is 2 s, in which 201 tokens fit" in told
    slower = replace(model, q_drawn=0.01)
    assert unmet_defaults(Settings(max_tokens=201, temperature=1.0), slower) != ""
    never = replace(model, c=5.0)
    assert "in which 0 tokens fit" in unmet_defaults(Settings(), never)


def test_a_load_waits_until_one_that_was_given_up_has_ended() -> None:
    class GivenUpError(Exception):
        pass

    begun, ends, told = threading.Event(), threading.Event(), []

    def first(_share: float, _doing: str) -> None:
        begun.set()
        ends.wait()
        raise GivenUpError

    def second(_share: float, doing: str) -> None:
        told.append(doing.split()[0])
        if told == ["waiting"]:
            ends.set()
        elif told[-1] == "loading":
            raise GivenUpError

    def given_up() -> None:
        with pytest.raises(GivenUpError):
            load(Settings(), first)

    thread = threading.Thread(target=given_up)
    thread.start()
    begun.wait()
    with pytest.raises(GivenUpError):
        load(Settings(), second)
    thread.join()
    assert told[0] == "waiting"
    assert told[-1] == "loading"
