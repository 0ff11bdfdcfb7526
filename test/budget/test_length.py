# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.length import LengthDistribution, bucket_label


def distribution(*probabilities: float, bucket_size: int = 16) -> LengthDistribution:
    return LengthDistribution(np.array(probabilities), bucket_size)


def test_predicted_tokens_is_the_upper_edge_of_the_likeliest_bucket() -> None:
    assert distribution(0.1, 0.2, 0.6, 0.1).predicted_tokens(max_tokens=400) == 48


def test_predicted_tokens_is_capped_at_n_max() -> None:
    assert distribution(0.0, 0.0, 1.0).predicted_tokens(max_tokens=40) == 40


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, 0.875), (16, 0.875), (17, 0.625), (48, 0.296875), (64, 0.046875)]
)
def test_at_least_counts_a_share_of_the_length_s_own_bucket(tokens: int, expected: float) -> None:
    lengths = distribution(0.25, 0.25, 0.40625, 0.09375)
    assert lengths.at_least(tokens, 0.5) == pytest.approx(expected, abs=1e-15)


def test_nothing_is_longer_than_the_last_bucket() -> None:
    lengths = distribution(0.5, 0.5)
    assert lengths.at_least(33, 0.9) == 0.0
    assert lengths.at_least(10**9, 0.9) == 0.0
    assert [lengths.in_last_bucket(n) for n in (16, 17, 33)] == [False, True, True]


def test_small_probabilities_keep_their_digits() -> None:
    lengths = distribution(1.0 - 1e-12, 1e-12 - 1e-18, 1e-18)
    assert lengths.at_least(32, 0.0) == pytest.approx(1e-18, rel=1e-6)
    assert lengths.at_least(40, 0.5) == pytest.approx(5e-19, rel=1e-6)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1.0, 1), (0.875, 16), (0.63, 16), (0.625, 32), (0.04, 64), (1e-9, 64)]
)
def test_tokens_below_is_the_end_of_the_bucket_that_is_less_often_exceeded(
    limit: float, expected: int
) -> None:
    lengths = distribution(0.25, 0.25, 0.40625, 0.09375)
    assert lengths.tokens_below(limit, 0.5) == expected


def test_no_length_is_less_often_exceeded_than_never() -> None:
    assert distribution(0.5, 0.5).tokens_below(0.0, 0.5) is None


@given(
    weights=st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any),
    bucket_size=st.integers(1, 20),
    pit_share=st.floats(0.0, 0.999),
    limit=st.floats(1e-9, 1.0),
)
def test_tokens_below_is_the_smallest_of_which_what_is_longer_is_below(
    weights: list[int], bucket_size: int, pit_share: float, limit: float
) -> None:
    lengths = distribution(*np.array(weights) / sum(weights), bucket_size=bucket_size)
    found = lengths.tokens_below(limit, pit_share)
    assert found is not None
    assert lengths.at_least(found + 1, pit_share) < limit
    assert found == 1 or lengths.at_least(found, pit_share) >= limit


def test_float32_rounding_is_normalised_away() -> None:
    lengths = LengthDistribution(np.full(3, 1 / 3, dtype=np.float32), 16)
    assert lengths.probabilities.sum() == pytest.approx(1.0, abs=1e-15)
    assert lengths.tokens_below(1e-12, 0.5) == 48


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


@pytest.mark.parametrize(("tokens", "label"), [(1, 1), (16, 1), (17, 2), (400, 25)])
def test_labels_count_from_one(tokens: int, label: int) -> None:
    assert bucket_label(tokens, 16) == label
