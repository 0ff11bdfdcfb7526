# SPDX-License-Identifier: Apache-2.0
"""Time models from files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from timebill_ros.budget.time_model import Quadratic
from timebill_ros.engine.profile_cache import RECIPE
from timebill_ros.replay.recording import BadInput
from timebill_ros.replay.simulated import load_time_model, recalled_profile
from timebill_ros.runtime.settings import Settings

COEFFICIENTS = {"a": 0, "b": 1e-5, "c": 0.0, "p": 1e-6, "q": 1e-3}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    return path


def profile(checkpoint: str, recipe: int = RECIPE) -> dict[str, object]:
    """A kept profile with prefill n / 1e5 s, a step of 1 ms, an eviction of n / 1e6 s."""
    sizes = (100, 200, 400, 800, 1600, 3200)
    stages = {"prefill": lambda n: n * 1e-5, "step": lambda n: 1e-3, "evict": lambda n: n * 1e-6}
    points: dict[str, object] = {
        stage: [{"tokens": n, "seconds": time(n)} for n in sizes] for stage, time in stages.items()
    }
    rest = {"predictor": [], "structured": [], "drawn": [], "rank": [], "render": []}
    points |= rest | {"chunks": [], "chunk_size": 0, "spread": 0.0}
    return {
        "environment": {"checkpoint": checkpoint, "recipe": recipe},
        "points": points,
        "predictors": {},
    }


def test_coefficients_by_name(tmp_path: Path) -> None:
    predictor = {"a": 0.0, "b": 0.0, "c": 0.002}
    model = load_time_model(
        written(tmp_path, {**COEFFICIENTS, "evict_base": 0.1, "predictor": predictor})
    )
    assert model.prefill(1000) == pytest.approx(0.01)
    assert model.step(1000) == pytest.approx(0.002)
    assert model.evict(1000) == pytest.approx(0.1)
    assert model.predictor == Quadratic(0.0, 0.0, 0.002)


def test_a_kept_profile(tmp_path: Path) -> None:
    model = load_time_model(written(tmp_path, profile("x")))
    assert model.prefill(1000) == pytest.approx(0.01)
    assert model.step(1000) == pytest.approx(0.001)
    assert model.predictor is None


def test_the_predictor_measured_last_with_a_kept_profile(tmp_path: Path) -> None:
    predictors = {
        name: [{"tokens": n, "seconds": seconds} for n in (10, 20, 40, 80, 160)]
        for name, seconds in (("first", 0.001), ("last", 0.002))
    }
    model = load_time_model(written(tmp_path, profile("x") | {"predictors": predictors}))
    assert model.predictor is not None
    assert model.predictor(100) == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([], "it is no JSON object"),
        ({}, "'a' is missing"),
        ({**COEFFICIENTS, "speed": 1.0}, "unknown keys speed; known: a, b, c, p, q"),
        ({**COEFFICIENTS, "p": "fast"}, "p is no number: 'fast'"),
        ({**COEFFICIENTS, "q": -1.0}, "q must be finite and not negative"),
        ({**COEFFICIENTS, "predictor": {"a": 1.0}}, "'b' is missing"),
        ({**COEFFICIENTS, "predictor": 3}, "no time model"),
        ({"points": {"prefill": []}}, "no time model"),
        ({"points": {"prefill": [{"tokens": 1}]}}, "'chunk_size' is missing"),
        ({"points": {"chunk_size": math.inf}}, "no time model"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: object, fault: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(BadInput, match=fault) as caught:
        load_time_model(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json: no time model can be read"):
        load_time_model(tmp_path / "nowhere.json")
    for text in ("{", "[" * 100_000):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(BadInput, match=r"broken\.json: no time model can be read"):
            load_time_model(tmp_path / "broken.json")


def test_the_newest_profile_of_the_model_is_recalled(tmp_path: Path) -> None:
    settings = Settings(model="some/model", profile_cache=str(tmp_path))
    with pytest.raises(BadInput, match="no profile of the model 'some/model' is kept in"):
        recalled_profile(settings)
    (tmp_path / "profile-damaged.json").write_text("{}")
    kept = tmp_path / "profile-good.json"
    kept.write_text(json.dumps(profile("x", RECIPE - 1)))
    with pytest.raises(BadInput, match="no profile of the model 'some/model' is kept in"):
        recalled_profile(settings)
    kept.write_text(json.dumps(profile("x")))
    assert recalled_profile(settings) == kept
    # The embedded model is known by its content.
    with pytest.raises(BadInput, match="'embedded'"):
        recalled_profile(Settings(profile_cache=str(tmp_path)))
