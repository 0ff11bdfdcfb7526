# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.training.embedded import compare_predictors
from timebill_ros.training.embedded.compare_predictors import (
    METHODS,
    Method,
    run,
)
from timebill_ros.training.embedded.lengths import TaskPair
from timebill_ros.workload.tasks import Family

PAIRS = [TaskPair((1, 2, n % 9 + 3), 40 * (n % 9) + 7, Family.REPORT) for n in range(36)]
EMBEDDINGS = torch.randn(20, 70, generator=torch.manual_seed(0))


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
