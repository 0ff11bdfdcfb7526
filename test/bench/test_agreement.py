# SPDX-License-Identifier: Apache-2.0
"""How far the embedded model agrees with its own answer, on as little as possible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.bench import measure_quality
from timebill_ros.bench.agreement import AgreedCase, Agreement, MethodAgreement, agreement_table
from timebill_ros.budget.quality import (
    QualityCurve,
    QualityFile,
    QualityPoint,
    read_quality,
    write_quality,
)
from timebill_ros.engine.eviction import EVICTION_METHODS

SMALL = (
    *("--jobs", "2", "--prompt-tokens", "512", "600", "--max-context", "1024"),
    *("--max-tokens", "12", "--shares", "0.5", "--alphas", "0.5", "0.9"),
    *("--select-by", "lexical", "recent", "--profile-seconds", "1", "--measure", "agreement"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agreement")


def measure(folder: Path, *more: str) -> int:
    cache, file = folder / "cache", folder / "quality.json"
    given = ("--out", str(folder / "run"), "--profile-cache", str(cache), "--json", str(file))
    return measure_quality.main([*given, *SMALL, *more])


def test_every_method_is_measured_and_the_whole_prompt_agrees_with_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(folder) == 0
    assert "| eviction by | 0 dropped | 0.5 dropped | 0.9 dropped |" in capsys.readouterr().out
    quality = read_quality(folder / "quality.json")
    assert quality.measure == "agreement"
    assert set(quality.eviction) == set(EVICTION_METHODS)
    assert set(quality.selection) == {"lexical", "recent"}
    for curve in (*quality.eviction.values(), *quality.selection.values()):
        assert curve.points[0] == QualityPoint(0.0, 100.0, 0.0, curve.points[0].ran_to_cap)
    assert quality.eviction["random"].points[2].score < 100.0
    assert (folder / "run" / "agreement.png").stat().st_size > 10_000


def test_a_second_run_asks_nothing_again(folder: Path) -> None:
    made = folder / "run" / "agreement.jsonl"
    before = made.read_bytes()
    assert measure(folder) == 0
    assert made.read_bytes() == before


def test_log_probabilities_fall_with_what_is_dropped(folder: Path) -> None:
    lines = (folder / "run" / "agreement.jsonl").read_text().splitlines()[1:]
    for line in lines:
        each = {
            (row["method"], row["dropped"]): row["log_probability"]
            for row in json.loads(line)["agreements"]
            if row["lever"] == "eviction"
        }
        assert each["random", 0.9] < each["random", 0.0] <= 0.0


def test_curves_of_another_measure_are_not_mixed_in(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = QualityCurve((QualityPoint(0.0, 90.0, 1.0, 0.0),))
    file = tmp_path / "quality.json"
    write_quality(file, QualityFile({"snapkv": curve}))
    assert measure(folder, "--json", str(file)) == 1
    assert "holds curves by references" in capsys.readouterr().err
    assert read_quality(file) == QualityFile({"snapkv": curve})


def made_up(case: str, half: float, other: float) -> AgreedCase:
    agreements = (
        Agreement("selection", "recent", 0.0, 1.0, -0.1),
        Agreement("selection", "recent", 0.5, half, -0.5),
        Agreement("selection", "random", 0.5, other, -0.6),
        Agreement("selection", "random", 0.0, 1.0, -0.1),
    )
    return AgreedCase(case, 700, 20, case != "c", {}, agreements)


CASES = [made_up("a", 0.8, 0.6), made_up("b", 0.6, 0.4), made_up("c", 0.7, 0.5)]


def test_a_curve_has_means_and_their_standard_errors() -> None:
    curve = MethodAgreement.of(CASES, "selection", "recent").curve()
    assert [point.dropped for point in curve.points] == [0.0, 0.5]
    assert curve.points[1].score == pytest.approx(70.0)
    assert curve.points[1].standard_error == pytest.approx(100.0 * 0.1 / np.sqrt(3), abs=1e-3)
    assert [point.ran_to_cap for point in curve.points] == [pytest.approx(1 / 3, abs=1e-4)] * 2


def test_a_table_has_paired_differences() -> None:
    methods = {name: MethodAgreement.of(CASES, "selection", name) for name in ("recent", "random")}
    rows = list(agreement_table(methods, "selection", "recent"))
    assert rows[2] == "| recent | 1.000 ± 0.000, -0.10 | 0.700 ± 0.058, -0.50 |"
    # The same prompts are all harder by as much: the difference is certain, the means are not.
    assert rows[3].endswith("0.500 ± 0.058, -0.60 [-0.200 to -0.200] |")
