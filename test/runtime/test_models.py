# SPDX-License-Identifier: Apache-2.0
"""Several models by name: how they are set, loaded, compared, and refused."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.quality import (
    PRIOR,
    LeverQuality,
    QualityCurve,
    QualityFile,
    QualityPoint,
    with_priors,
    write_quality,
)
from timebill_ros.engine.checkpoint import memory_need
from timebill_ros.engine.errors import CheckpointNotFound
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.clock import NS_PER_S, MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.loading import Loaded, load
from timebill_ros.runtime.models import check_memory, measured_levers, model_folder
from timebill_ros.runtime.outcome import Outcome, Response
from timebill_ros.runtime.running_server import start_server
from timebill_ros.runtime.settings import Settings, parted

from ..engine.scripted_server import WAIT, answer, scripted

BOTH = ("embedded", "embedded-small")


def quiet(share: float, doing: str) -> None:
    """Nobody is told."""


def curve(score: float) -> QualityCurve:
    return QualityCurve((QualityPoint(0.0, score, 1.0, 0.0),))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    settings = Settings(
        models=(*BOTH, "embedded@bfloat16"),
        max_context=1024,
        threads=1,
        profile_cache=str(tmp_path_factory.mktemp("profiles")),
        profile_seconds=1.0,
    )
    return load(settings, quiet)


def test_every_model_is_loaded_with_what_is_its_own(loaded: Loaded) -> None:
    large, small, rounded = (loaded, *loaded.smaller)
    assert [each.model for each in (large, small, rounded)] == [*BOTH, "embedded@bfloat16"]
    assert len({id(each.engine) for each in (large, small, rounded)}) == 3
    assert len({each.fit.model for each in (large, small, rounded)}) == 3
    traits = [each.engine.traits for each in (large, small, rounded)]
    assert traits[0]["checkpoint"] == traits[2]["checkpoint"] != traits[1]["checkpoint"]
    assert traits[0]["weights"] != traits[2]["weights"] == "bfloat16"
    assert loaded.others == ()


def test_models_that_have_one_predictor_share_it(loaded: Loaded) -> None:
    assert loaded.predictor is not None
    assert all(each.predictor is loaded.predictor for each in loaded.smaller)


def test_the_packages_models_can_be_compared(loaded: Loaded) -> None:
    large, small = loaded.quality, loaded.smaller[0].quality
    assert large is not None
    assert small is not None
    assert large.measured
    assert small.measured
    assert 50.0 < small.score(1.0, 0.0) < large.score(1.0, 0.0)
    # Both over rho too, so that either may be given a shorter prompt.
    assert large.selection is not None
    assert small.selection is not None
    assert small.score(0.06, 0.0) < small.score(1.0, 0.0)


def test_a_model_that_cannot_be_loaded_is_named_and_the_others_are_closed(tmp_path: Path) -> None:
    settings = Settings(models=("embedded", str(tmp_path / "none")), max_context=1024)
    with pytest.raises(CheckpointNotFound, match="none"):
        load(settings, quiet)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embedded", ("embedded", "")),
        ("embedded@int8", ("embedded", "int8")),
        ("/models/at@home", ("/models/at@home", "")),
        ("/models/at@home@int4", ("/models/at@home", "int4")),
        ("@int8", ("@int8", "")),
    ],
)
def test_a_name_says_how_its_weights_are_kept(name: str, expected: tuple[str, str]) -> None:
    assert parted(name) == expected


def test_one_model_is_named_by_model_and_several_by_models() -> None:
    assert [s.model for s in Settings().on_models("local")] == ["embedded"]
    several = Settings(models=BOTH).on_models("local")
    assert [s.model for s in several] == list(BOTH)
    twin = Settings(models=("a", "a@int8"), weights="bfloat16").on_models("local")
    assert [(s.model, s.weights) for s in twin] == [("a", "bfloat16"), ("a@int8", "int8")]
    assert str(model_folder(twin[1])) == "a"
    served = Settings(engine="served", url="http://h", fallback=("local",), models=("big", "tiny"))
    assert [s.server_model for s in served.on_models("served")] == ["big", "tiny"]
    assert [s.model for s in served.on_models("local")] == ["embedded"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ("a", "a")}, "models must be without a name that occurs twice"),
        ({"models": ("a", "b"), "model": "c"}, "model must be left as it is where models names"),
        (
            {"models": ("a",), "engine": "served", "url": "http://h", "server_model": "b"},
            "server_model must be left as it is",
        ),
    ],
)
def test_names_that_contradict_each_other_are_refused(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        Settings(**given)  # type: ignore[arg-type]


def test_what_does_not_fit_together_is_refused_with_what_is_missing() -> None:
    models = Settings(models=BOTH).on_models("local")
    needs = [
        memory_need(Path(model_folder(each)), device="cpu", dtype="auto", kept="auto")
        for each in models
    ]
    tokens = [need.max_positions + 4096 for need in needs]
    total = sum(n.weights + t * n.per_token for n, t in zip(needs, tokens, strict=True))
    check_memory(models, quiet, free=lambda _: total)
    with pytest.raises(SettingError, match=r"models must be of at most .* 0\.01 GB are missing"):
        check_memory(models, quiet, free=lambda _: total - 10_000_000)
    check_memory(models[:1], quiet, free=lambda _: total - 1)
    with pytest.raises(SettingError, match=r"model must be of at most 0\.00 GB"):
        check_memory(models[:1], quiet, free=lambda _: 1000)
    shorter = [replace(each, max_context=1024, prefix_tokens=0) for each in models]
    check_memory(shorter, quiet, free=lambda _: total // 2)


def test_what_a_model_takes_is_told_by_its_files() -> None:
    folder = Path(model_folder(Settings()))
    need = memory_need(folder, device="cpu", dtype="auto", kept="auto")
    file = (folder / "model.safetensors").stat().st_size
    assert need.weights == pytest.approx(file, rel=0.05) or need.weights == pytest.approx(
        2 * file, rel=0.05
    )  # the file holds float32 or bfloat16
    rounded = memory_need(folder, device="cpu", dtype="float32", kept="int8")
    assert rounded.weights == pytest.approx(1.25 * need.weights)
    half = memory_need(folder, device="cpu", dtype="bfloat16", kept="bfloat16")
    assert half.weights == pytest.approx(0.5 * need.weights)
    assert half.per_token == need.per_token // 2


def test_a_model_without_a_curve_is_taken_for_worse_than_the_larger_one() -> None:
    measured = LeverQuality(curve(80.0), measured=True)
    blind = LeverQuality()
    first, second, third = with_priors([measured, blind, blind])
    assert first is measured
    assert second.score(1.0, 0.0) == pytest.approx(72.0)
    assert third.score(1.0, 0.0) == pytest.approx(64.8)
    assert second.score(1.0, 0.5) / second.score(1.0, 0.0) == pytest.approx(
        PRIOR.score(0.5) / 100.0
    )
    assert not second.measured
    relative = LeverQuality(
        QualityCurve((QualityPoint(0.0, 100.0, 1.0, 0.0), QualityPoint(0.5, 50.0, 1.0, 0.0))),
        measured=True,
        measure="agreement",
    )
    _, own = with_priors([measured, relative])
    assert (own.score(1.0, 0.0), own.score(1.0, 0.5)) == (pytest.approx(72.0), pytest.approx(36.0))
    assert with_priors([blind, measured]) == (blind, measured)
    assert with_priors([blind]) == (blind,)


def test_curves_of_several_models_lie_in_one_folder(tmp_path: Path) -> None:
    write_quality(tmp_path / "org_tiny.json", QualityFile({"snapkv": curve(70.0)}))
    set_ = Settings(quality_file=str(tmp_path))
    known = measured_levers(replace(set_, server_model="org/tiny"), local=False)[0]
    assert known == LeverQuality(curve(70.0), measured=True)
    assert not measured_levers(replace(set_, server_model="big"), local=False)[0].measured
    one = replace(set_, models=BOTH, quality_file=str(tmp_path / "org_tiny.json"))
    with pytest.raises(SettingError, match="quality_file must be a folder with a file for each"):
        load(one, quiet)


def test_rounded_weights_have_curves_of_their_own_where_they_were_measured(tmp_path: Path) -> None:
    write_quality(tmp_path / "quality.json", QualityFile({"snapkv": curve(90.0)}))
    write_quality(tmp_path / "quality.int8.json", QualityFile({"snapkv": curve(85.0)}))
    full, eight, four = (
        measured_levers(own)[0].score(1.0, 0.0)
        for name in ("", "@int8", "@int4")
        for own in Settings(models=(f"{tmp_path}{name}",)).on_models("local")
    )
    assert (full, eight, four) == (90.0, 85.0, 90.0)


def test_the_server_is_asked_for_the_model_that_was_chosen(tmp_path: Path) -> None:
    """Of two names on one server; the second one scores better by its curve."""
    curves = tmp_path / "curves"
    curves.mkdir()
    for name, score in (("big", 60.0), ("tiny", 90.0)):
        write_quality(curves / f"{name}.json", QualityFile({"snapkv": curve(score)}))
    models = {"data": [{"id": name, "max_model_len": 2048} for name in ("big", "tiny")]}
    outcomes: list[Outcome] = []
    ended = threading.Event()

    def emit(outcome: Outcome) -> None:
        outcomes.append(outcome)
        ended.set()

    with scripted(answer("stop ."), models) as server:
        settings = Settings(
            engine="served",
            url=server.url,
            models=("big", "tiny"),
            quality_file=str(curves),
            max_tokens=10,
            profile_cache=str(tmp_path),
            profile_seconds=1.0,
        )
        running = start_server(
            settings,
            clock=MonotonicClock(),
            emit=emit,
            observe=lambda _: None,
            progress=quiet,
        )
        now = MonotonicClock().now_ns()
        asked = len(server.received)
        running.server.submit(Job("a", Conversation("", "stop"), now, now + 600 * NS_PER_S))
        assert ended.wait(WAIT)
        bodies = [request.body for request in server.received[asked:]]
        status = running.chain.status()
        running.release(WAIT)
    (outcome,) = outcomes
    assert isinstance(outcome, Response), outcome
    assert outcome.plan.model == "tiny"
    assert [body["model"] for body in bodies if "messages" in body] == ["tiny"], json.dumps(bodies)
    assert status["answered by served, tiny"] == "1"
    assert status["answered by served, big"] == "0"
