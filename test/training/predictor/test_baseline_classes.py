# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from timebill_ros.training.predictor.baselines import proxy_model_classes, s3_classes


def test_the_proxy_model_cuts_at_percentiles() -> None:
    classes = proxy_model_classes(range(1, 101), 400)
    assert classes.upper.tolist() == [26, 51, 76, 100, 400]
    shares = np.bincount(classes.labels(range(1, 101)), minlength=5)
    assert shares.tolist() == [26, 25, 25, 24, 0]


def test_percentiles_that_fall_together_make_one_class() -> None:
    assert proxy_model_classes([7] * 50 + [300], 400).upper.tolist() == [7, 154, 400]
    assert proxy_model_classes([400] * 9, 400).upper.tolist() == [400]


def test_s3_has_ten_equal_buckets() -> None:
    assert s3_classes(400).upper.tolist() == list(range(40, 401, 40))
