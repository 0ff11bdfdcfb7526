# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from timebill_ros.budget.errors import QualityFileError
from timebill_ros.budget.quality import QualityCurve, QualityPoint, read_quality, write_quality

POINT = {"alpha": 0.0, "score": 90.0, "standard_error": 1.0, "ran_to_cap": 0.0}
CURVE = QualityCurve((QualityPoint(**POINT), QualityPoint(0.5, 80.0, 2.0, 0.1)))


def test_quality_is_linear_between_the_points_and_level_beyond() -> None:
    assert CURVE.score(0.0) == 90.0
    assert CURVE.score(0.25) == pytest.approx(85.0)
    assert CURVE.score(0.9) == 80.0


def test_curves_come_back_from_their_file(tmp_path: Path) -> None:
    curves = {"snapkv": CURVE, "random": QualityCurve((QualityPoint(**POINT),))}
    write_quality(tmp_path / "quality.json", curves)
    assert read_quality(tmp_path / "quality.json") == curves


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QualityFileError, match=r"none\.json.*No such file"):
        read_quality(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "items"),
        ('{"snapkv": 3}', "iterable"),
        ('{"snapkv": []}', "needs a point"),
        (json.dumps({"snapkv": [{"alpha": 0.0}]}), "score"),
        (json.dumps({"snapkv": [{**POINT, "why": 1}]}), "why"),
        (json.dumps({"snapkv": [{**POINT, "score": 101.0}]}), "score must be within 0 to 100"),
        (json.dumps({"snapkv": [{**POINT, "score": "90"}]}), "'<=' not supported"),
        (json.dumps({"snapkv": [{**POINT, "alpha": float("nan")}]}), "alpha must be within 0 to 1"),
        (json.dumps({"snapkv": [POINT, POINT]}), "alpha must grow"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "quality.json"
    path.write_text(content)
    with pytest.raises(QualityFileError, match=rf"quality\.json.*{reason}"):
        read_quality(path)
