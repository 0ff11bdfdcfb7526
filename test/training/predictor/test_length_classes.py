# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.budget.length import bucket_label
from timebill_ros.training.predictor.baselines import LengthClasses, buckets


@pytest.mark.parametrize("size", [1, 3, 4, 16, 400, 1000])
def test_buckets_are_those_of_the_paper(size: int) -> None:
    classes = buckets(size, 400)
    assert classes.count == -(-400 // size)
    lengths = range(1, 401)
    labels = classes.labels(lengths)
    assert labels.tolist() == [bucket_label(n, size) - 1 for n in lengths]
    assert np.all(classes.upper[labels] == np.minimum((labels + 1) * size, 400))


def test_a_class_mean_is_that_of_its_lengths_or_its_middle() -> None:
    classes = LengthClasses(np.array([10, 20, 400]))
    assert classes.means([2, 10, 21, 23]).tolist() == [6.0, 15.5, 22.0]


@pytest.mark.parametrize("upper", [[], [0, 5], [5, 5], [9, 4]])
def test_edges_must_ascend(upper: list[int]) -> None:
    with pytest.raises(ValueError, match="ascend from 1"):
        LengthClasses(np.array(upper, dtype=np.int64))
