# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution, bucket_label


def distribution(*probabilities: float, bucket_size: int = 16) -> LengthDistribution:
    return LengthDistribution(np.array(probabilities), bucket_size)


def test_predicted_tokens_is_the_upper_edge_of_the_likeliest_bucket() -> None:
    assert distribution(0.1, 0.2, 0.6, 0.1).predicted_tokens(max_tokens=400) == 48


def test_predicted_tokens_is_capped_at_n_max() -> None:
    assert distribution(0.0, 0.0, 1.0).predicted_tokens(max_tokens=40) == 40


@pytest.mark.parametrize(
    ("miss_probability", "expected"), [(0.0, 64), (0.05, 64), (0.1, 48), (0.5, 32), (0.95, 16)]
)
def test_quantile_is_the_smallest_edge_within_the_miss_probability(
    miss_probability: float, expected: int
) -> None:
    lengths = distribution(0.25, 0.25, 0.40625, 0.09375)
    assert lengths.quantile_tokens(miss_probability, max_tokens=400) == expected


def test_quantile_is_capped_at_n_max() -> None:
    assert distribution(0.0, 1.0).quantile_tokens(0.1, max_tokens=20) == 20


def test_float32_rounding_is_normalised_away() -> None:
    lengths = LengthDistribution(np.full(3, 1 / 3, dtype=np.float32), 16)
    assert lengths.probabilities.sum() == pytest.approx(1.0, abs=1e-15)
    assert lengths.quantile_tokens(0.0, max_tokens=400) == 48


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([], "non-empty"),
        ([[1.0]], "non-empty"),
        ([0.5, 0.4], "sum to 1"),
        ([1.5, -0.5], "not negative"),
        ([float("nan"), 1.0], "finite"),
    ],
)
def test_what_is_not_a_distribution_is_refused(probabilities: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LengthDistribution(np.array(probabilities), 16)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="bucket_size"):
        distribution(1.0, bucket_size=0)
    with pytest.raises(ValueError, match="miss_probability"):
        distribution(1.0).quantile_tokens(1.0, max_tokens=10)


@pytest.mark.parametrize(("tokens", "label"), [(1, 1), (16, 1), (17, 2), (400, 25)])
def test_labels_count_from_one(tokens: int, label: int) -> None:
    assert bucket_label(tokens, 16) == label
