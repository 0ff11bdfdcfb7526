# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from timebill_ros.training.predictor.baselines import LengthClasses
from timebill_ros.training.predictor.error_table import (
    Result,
    absolute_error,
    append_results,
    decisions,
    read_results,
    table,
)

RESULT = Result("ours", 7, "upper edge", 0, 10.0, 20.0, 0.5, 60.0)


def test_decision_rules() -> None:
    classes = LengthClasses(np.array([10, 100, 400]))
    outputs = torch.eye(3)[[1, 2]]
    rules = decisions(outputs, classes, [5, 20, 40], 400)
    assert rules["upper edge"].tolist() == [100, 400]
    assert rules["class mean"].tolist() == [30.0, 250.5]


def test_a_regression_predicts_lengths_that_exist() -> None:
    outputs = torch.tensor([[50.0], [-3.0], [900.0]])
    predicted = decisions(outputs, None, [], 400)["value"]
    assert predicted.tolist() == [50.0, 1.0, 400.0]
    assert absolute_error(outputs[:2], [50, 1]).item() == pytest.approx(2.0)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert read_results(path) == []
    append_results(path, [RESULT])
    append_results(path, [replace(RESULT, seed=1)])
    assert read_results(path) == [RESULT, replace(RESULT, seed=1)]


def test_the_table_has_the_seeds_mean_and_spread() -> None:
    last = replace(RESULT, method="S3", rule="class mean")
    lines = table(
        [last, RESULT, replace(RESULT, seed=1, mae=12.0, r2=0.7)], ["ours", "S3"]
    ).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| ours | 7 | upper edge | 11.0 ± 1.0 | 20.0 ± 0.0 | 0.600 ± 0.100 | 60 s |"
    assert "S3" in lines[3]
