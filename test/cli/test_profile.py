# SPDX-License-Identifier: Apache-2.0
"""What the profile command shows, without measuring anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.budget.fit import TimeModelFit
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.cli import profile
from timebill_ros.replay.simulated import load_time_model
from timebill_ros.runtime.settings import Settings

MODEL = TimeModel(
    a=1e-8,
    b=1e-5,
    c=2e-3,
    p=1e-7,
    q=3e-4,
    evict_rate=1e-6,
    q_structured=1.7e-5,
    predictor=Quadratic(0.0, 1e-6, 1e-3),
)
FIT = TimeModelFit(MODEL, prefill_mape=0.012, step_mape=0.034, evict_mape=0.056)


def test_coefficients_are_shown_with_unit_and_error() -> None:
    text = "\n".join(profile.describe(FIT))
    for coefficient in ("a = 1.000e-08 s/token^2", "p = 1.000e-07 s/token", "q = 3.000e-04 s"):
        assert coefficient in text
    assert "1.700e-05 s" in text
    assert [f"error {error}" in text for error in ("1.2%", "3.4%", "5.6%")] == [True] * 3


def test_the_table_doubles_up_to_the_context() -> None:
    *_, first, second, third = profile.table(MODEL, 1500)
    assert [row.split()[0] for row in (first, second, third)] == ["256", "512", "1,024"]
    prefill, predictor, evict, step, *answers = map(float, third.split()[1:])
    assert prefill == pytest.approx(MODEL.prefill(1024) * 1e3, abs=0.05)
    assert predictor == pytest.approx(2.0, abs=0.05)
    assert (evict, step) == (pytest.approx(1.02, abs=0.01), pytest.approx(0.402, abs=0.001))
    assert answers == sorted(answers, reverse=True)
    whole = MODEL.prefill(1024) + MODEL.decode(1024, 100)
    assert answers[0] == pytest.approx(whole * 1e3, abs=0.05)


def test_headings_stand_over_their_columns() -> None:
    _, heading, *rows = profile.table(MODEL, 40_000)
    assert {len(row) for row in rows} == {len(heading)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk", "0"], "chunk must be in 1"),
        (["--threads", "many"], "invalid int value"),
        (["--profile-seconds", "0"], "profile_seconds must be in 1"),
    ],
)
def test_a_bad_argument_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        profile.main(arguments)
    assert message in capsys.readouterr().err


def test_what_a_profile_depends_on_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr(profile, "measured", lambda settings: asked.append(settings) or (FIT, 600))
    arguments = "--temperature 0.7 --eviction-method random --kernel 7 --window 32"
    assert profile.main(arguments.split()) == 0
    assert profile.main([]) == 0
    assert asked[0] == Settings(temperature=0.7, eviction_method="random", kernel=7, window=32)
    assert asked[1] == Settings()


def test_a_missing_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile.main(["--model", "/nowhere"]) == 1
    assert "/nowhere" in capsys.readouterr().err


def test_a_new_measurement_takes_the_place_of_the_kept_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile-1.json").write_text("old")
    (tmp_path / "profile-2.json").write_text("another model's")

    def measured(settings: Settings) -> tuple[TimeModelFit, int]:
        assert (tmp_path / "profile-1.json").read_text() == "old"
        Path(settings.profile_cache, "profile-1.json").write_text("new")
        return FIT, 1000

    monkeypatch.setattr(profile, "measured", measured)
    assert profile.measure_anew(Settings(profile_cache=str(tmp_path))) == (FIT, 1000)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"profile-1.json": "new", "profile-2.json": "another model's"}


def test_a_saved_time_model_is_the_one_that_replay_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "measured", lambda settings: (FIT, 600))
    assert profile.main(["--save", str(tmp_path / "model.json")]) == 0
    assert load_time_model(tmp_path / "model.json") == FIT.model
    assert profile.main(["--save", str(tmp_path / "nowhere" / "model.json")]) == 1
    assert "nowhere" in capsys.readouterr().err
