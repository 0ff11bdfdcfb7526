# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.calibration import Calibration, fit_calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import read_calibration, write_calibration
from timebill_ros.predictor.errors import PredictorIncomplete
from timebill_ros.predictor.length_predictor import load_predictor

LENGTHS = LengthDistribution(np.array([0.5, 0.3, 0.2]), 16)


@pytest.fixture
def calibration() -> Calibration:
    return fit_calibration([LENGTHS] * 48, list(range(1, 49)))


@pytest.mark.parametrize("kind", ["embedded", "classifier"])
def test_what_was_written_is_read(
    kind: str, calibration: Calibration, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    assert read_calibration(folder) is None
    write_calibration(folder, calibration)
    found = read_calibration(folder)
    assert found is not None
    assert found.pairs == 48
    assert found.levels.tolist() == calibration.levels.tolist()
    assert found.scores == pytest.approx(calibration.scores, rel=1e-5)
    # The rest of the configuration is as it was.
    assert load_predictor(folder).bucket_size == 16


def test_a_new_calibration_takes_the_place_of_the_old(
    embedded: Path, calibration: Calibration
) -> None:
    write_calibration(embedded, calibration)
    write_calibration(embedded, fit_calibration([LENGTHS], [16]))
    found = read_calibration(embedded)
    assert found is not None
    assert found.pairs == 1


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ([], "it is not a JSON object"),
        ({"pairs": 1, "levels": [0.1]}, "'scores' is missing"),
        ({"pairs": "x", "levels": [0.1], "scores": [0.1]}, "invalid literal for int"),
        ({"pairs": 1, "levels": [0.1], "scores": [2]}, "scores must be probabilities"),
        ({"pairs": 1, "levels": [0.1], "scores": [0, 1]}, r"scores must have the shape \(1,\)"),
        ({"pairs": 1, "levels": 7, "scores": [0, 1]}, "levels must be a vector"),
    ],
)
def test_a_damaged_calibration_is_named(embedded: Path, entry: object, reason: str) -> None:
    path = embedded / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": entry}))
    with pytest.raises(PredictorIncomplete, match=f"config.json: calibration: .*{reason}"):
        read_calibration(embedded)
