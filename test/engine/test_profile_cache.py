# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import replace

import pytest

from timebill_ros.budget.fit import Measurement, ProfilePoints, fit_time_model
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.profile_cache import (
    RECIPE,
    PredictorProfile,
    describe_environment,
    recall_or_measure,
)
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine

ENVIRONMENT = {"checkpoint": "abc", "device": "some CPU", "threads": 2}
POINTS = ProfilePoints(
    *(tuple(Measurement(n, n * 1e-4 + 1e-3) for n in range(100, 1300, 100)) for _ in range(3)),
    predictor=(),
)


class Measure:
    """Counts how often it was asked for a profile."""

    def __init__(self, points=POINTS):
        self.points = points
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.points


@pytest.fixture
def folder(tmp_path):
    """A folder that holds the profile of ENVIRONMENT."""
    folder = tmp_path / "profiles"
    recall_or_measure(folder, ENVIRONMENT, Measure())
    return folder


def file_in(folder):
    (path,) = folder.iterdir()
    return path


def rewrite(folder, change):
    path = file_in(folder)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def measured_again(folder, caplog):
    """Whether the file is not trusted, and is mended by the new profile."""
    measure = Measure()
    with caplog.at_level(logging.WARNING):
        points = recall_or_measure(folder, ENVIRONMENT, measure)
    assert points == POINTS
    assert recall_or_measure(folder, ENVIRONMENT, fail) == POINTS
    return measure.calls == 1 and "measuring again" in caplog.text


def fail():
    pytest.fail("measured although there is a good file")


def test_a_profile_is_measured_once(folder):
    assert recall_or_measure(folder, ENVIRONMENT, fail) == POINTS


@pytest.mark.parametrize("name", sorted(ENVIRONMENT))
def test_another_environment_is_measured(folder, name):
    measure = Measure()
    recall_or_measure(folder, ENVIRONMENT | {name: "other"}, measure)
    assert measure.calls == 1


def test_another_recipe_is_measured(folder):
    measure = Measure()
    recall_or_measure(folder, ENVIRONMENT, measure, recipe=RECIPE + 1)
    assert measure.calls == 1
    assert len(list(folder.iterdir())) == 2
    assert recall_or_measure(folder, ENVIRONMENT, fail) == POINTS


def test_a_file_from_before_there_were_recipes_is_measured_again(folder, caplog):
    rewrite(folder, lambda content: content["environment"].pop("recipe"))
    assert measured_again(folder, caplog)


def test_a_stale_file_under_the_right_name_is_not_trusted(folder, caplog):
    rewrite(folder, lambda content: content["environment"].update(threads=4))
    assert measured_again(folder, caplog)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_not_trusted(folder, share, caplog):
    path = file_in(folder)
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    assert measured_again(folder, caplog)


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"environment": {}}', "\x00", NESTED])
def test_a_malformed_file_is_not_trusted(folder, text, caplog):
    file_in(folder).write_text(text)
    assert measured_again(folder, caplog)


def test_bytes_that_are_no_text_are_not_trusted(folder, caplog):
    file_in(folder).write_bytes(b"\xff\xfe\x80")
    assert measured_again(folder, caplog)


@pytest.mark.parametrize("stage", ["prefill", "step", "evict"])
@pytest.mark.parametrize(
    "point",
    [
        {"tokens": 100, "seconds": -1.0},
        {"tokens": 100, "seconds": 0.0},
        {"tokens": 100, "seconds": float("nan")},
        {"tokens": 100, "seconds": float("inf")},
        {"tokens": 100, "seconds": 1e9},
        {"tokens": -5, "seconds": 1.0},
        {"tokens": float("inf"), "seconds": 1.0},
        {"tokens": 10**400, "seconds": 1.0},
        {"tokens": 100, "seconds": None},
        {"tokens": 100},
    ],
)
def test_an_implausible_point_is_not_trusted(folder, stage, point, caplog):
    rewrite(folder, lambda content: content["points"][stage].insert(0, point))
    assert measured_again(folder, caplog)


def test_too_few_points_are_not_trusted(folder, caplog):
    rewrite(folder, lambda content: content["points"]["prefill"].__delitem__(slice(3, None)))
    assert measured_again(folder, caplog)


def disturbed(stage):
    """POINTS with every other time of a stage, which is not fitted, tripled."""
    points = getattr(POINTS, stage)
    others = (Measurement(m.tokens, m.seconds * (1 + 2 * (i % 2))) for i, m in enumerate(points))
    return replace(POINTS, **{stage: tuple(others)})


@pytest.mark.parametrize("stage", ["prefill", "step"])
def test_a_busy_machines_profile_is_kept_and_marked(tmp_path, stage):
    points = disturbed(stage)
    assert recall_or_measure(tmp_path, ENVIRONMENT, Measure(points)) == points
    recalled = recall_or_measure(tmp_path, ENVIRONMENT, fail)
    assert recalled == points
    assert f"held-out {stage} times by 67%" in fit_time_model(recalled).disturbance


PREDICTOR = tuple(Measurement(n, n * 1e-5 + 1e-4) for n in (10, 20, 40, 80, 160, 320))


def predicted(name, points=PREDICTOR):
    measure = Measure(points)
    return PredictorProfile(name, measure), measure


def test_another_predictor_is_measured_alone(folder):
    first, measure = predicted("first")
    assert recall_or_measure(folder, ENVIRONMENT, fail, first).predictor == PREDICTOR
    slower = tuple(replace(m, seconds=2 * m.seconds) for m in PREDICTOR)
    second, _ = predicted("second", slower)
    assert recall_or_measure(folder, ENVIRONMENT, fail, second).predictor == slower
    assert recall_or_measure(folder, ENVIRONMENT, fail, first).predictor == PREDICTOR
    assert measure.calls == 1
    assert recall_or_measure(folder, ENVIRONMENT, fail) == POINTS


def test_an_implausible_predictor_is_not_trusted(folder, caplog):
    first, _ = predicted("first")
    recall_or_measure(folder, ENVIRONMENT, fail, first)
    rewrite(folder, lambda content: content["predictors"]["first"][0].update(seconds=-1.0))
    assert measured_again(folder, caplog)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert recall_or_measure(blocked, ENVIRONMENT, Measure()) == POINTS
    assert "cannot be kept" in caplog.text


def test_no_half_written_file_is_left(folder):
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_a_full_disk_costs_only_time_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert recall_or_measure(tmp_path, ENVIRONMENT, Measure()) == POINTS
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_failed_measurement_keeps_nothing(tmp_path):
    def interrupted():
        raise RuntimeError("shut down")

    with pytest.raises(RuntimeError):
        recall_or_measure(tmp_path, ENVIRONMENT, interrupted)
    assert not list(tmp_path.iterdir())


def test_the_environment_tells_engines_apart(folder_of, make_engine):
    def environment(name="qwen2", **settings):
        return describe_environment(make_engine(name, **settings))

    base = environment()
    assert environment() == base
    assert environment("llama") != base
    for settings in (
        {"threads": 2},
        {"chunk": 64},
        {"window": 16},
        {"eviction_method": "criticalkv"},
        {"kernel": 7},
        {"max_context": 200},
        {"lean": False},
    ):
        assert environment(**settings) != base
    assert environment(sampling=Sampling(temperature=0.7, seed=3), stop=("END",)) == base
    narrow = load_checkpoint(folder_of("qwen2"), dtype="bfloat16")
    settings = EngineSettings(max_context=make_engine().max_context, chunk=32, window=8)
    assert describe_environment(TransformerEngine(narrow, settings)) != base
    assert {"torch", "transformers", "timebill_ros", "device"} <= base.keys()
