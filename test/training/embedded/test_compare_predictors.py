# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from timebill_ros.training.embedded import compare_predictors
from timebill_ros.training.embedded.compare_predictors import (
    METHODS,
    Method,
    Result,
    absolute_error,
    append_results,
    decisions,
    read_results,
    run,
    table,
)
from timebill_ros.training.embedded.lengths import TaskPair
from timebill_ros.training.predictor.baselines import LengthClasses
from timebill_ros.workload.tasks import Family

PAIRS = [TaskPair((1, 2, n % 9 + 3), 40 * (n % 9) + 7, Family.REPORT) for n in range(36)]
EMBEDDINGS = torch.randn(20, 70, generator=torch.manual_seed(0))
RESULT = Result(METHODS[0].name, 7, "upper edge", 0, 10.0, 20.0, 0.5, 60.0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_trains_and_is_measured(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_predictors, "STEPS", 2)
    results = run(method, EMBEDDINGS, PAIRS, PAIRS[:9], seed=0)
    rules = ["upper edge", "class mean"] if method.classes else ["value"]
    assert [result.rule for result in results] == rules
    for result in results:
        assert result.mae <= result.rmse
        assert result.r2 <= 1.0
        assert (result.method, result.seed) == (method.name, 0)


def test_the_paper_s_granularities_and_classes_are_there() -> None:
    lengths = range(1, 401)
    counts = [method.classes(lengths).count for method in METHODS if method.classes]
    assert counts == [7, 13, 25, 100, 200, 400, 5, 10, 5, 10]


def test_decision_rules() -> None:
    classes = LengthClasses(np.array([10, 100, 400]))
    outputs = torch.eye(3)[[1, 2]]
    rules = decisions(outputs, classes, [5, 20, 40])
    assert rules["upper edge"].tolist() == [100, 400]
    assert rules["class mean"].tolist() == [30.0, 250.5]


def test_a_regression_predicts_lengths_that_exist() -> None:
    outputs = torch.tensor([[50.0], [-3.0], [900.0]])
    predicted = decisions(outputs, None, [])["value"]
    assert predicted.tolist() == [50.0, 1.0, 400.0]
    assert absolute_error(outputs[:2], [50, 1]).item() == pytest.approx(2.0)


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert read_results(path) == []
    append_results(path, [RESULT])
    append_results(path, [replace(RESULT, seed=1)])
    assert read_results(path) == [RESULT, replace(RESULT, seed=1)]


def test_the_table_has_the_seeds_mean_and_spread() -> None:
    last = replace(RESULT, method=METHODS[-1].name, rule="class mean")
    lines = table([last, RESULT, replace(RESULT, seed=1, mae=12.0, r2=0.7)]).splitlines()
    assert len(lines) == 4
    name = METHODS[0].name
    assert (
        lines[2] == f"| {name} | 7 | upper edge | 11.0 ± 1.0 | 20.0 ± 0.0 | 0.600 ± 0.100 | 60 s |"
    )
    assert METHODS[-1].name in lines[3]
