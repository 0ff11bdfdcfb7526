# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.calibration import (
    LEVELS,
    PAIRS_PER_RANGE,
    Calibration,
    fit_calibration,
    score,
)
from timebill_ros.budget.length import LengthDistribution

EVEN = LengthDistribution(np.array([0.5, 0.5]), 10)
LONG = LengthDistribution(np.array([0.2, 0.8]), 10)


def calibration(**changed: object) -> Calibration:
    values = {
        "pairs": 100,
        "levels": np.array([0.01, 0.1, 0.5]),
        "longest": (10, 20),
        "scores": np.array([[0.001, 0.1, 0.4], [0.02, 0.2, 0.9]]),
    }
    return Calibration(**{**values, **changed})  # type: ignore[arg-type]


def test_the_score_is_the_probability_of_a_response_at_least_as_long() -> None:
    assert score(EVEN, 1) == 1.0
    assert score(EVEN, 11) == pytest.approx(0.5)
    assert score(EVEN, 20) == pytest.approx(0.05)
    assert score(EVEN, 21) == 0.0


def test_known_scores_map_to_their_levels_and_others_between_on_a_logarithmic_scale() -> None:
    known = calibration()
    assert known.calibrated(EVEN, 0.1) == pytest.approx(0.1)
    assert known.calibrated(EVEN, 0.01) == pytest.approx(0.055)
    assert known.calibrated(EVEN, 1.0) == 1.0
    assert known.predicted(EVEN, 0.1) == pytest.approx(0.1)
    assert known.predicted(EVEN, 0.055) == pytest.approx(0.01)


def test_every_range_of_predicted_lengths_has_its_own_map() -> None:
    known = calibration()
    assert (EVEN.likeliest_tokens, LONG.likeliest_tokens) == (10, 20)
    assert known.predicted(LONG, 0.1) == pytest.approx(0.2)
    beyond = LengthDistribution(np.eye(4)[3], 10)
    assert known.predicted(beyond, 0.1) == pytest.approx(0.2)


def test_what_is_rarer_than_the_pairs_can_tell_is_not_promised() -> None:
    known = calibration()
    assert known.calibrated(EVEN, 1e-9) == 0.01
    assert known.calibrated(EVEN, 0.0) == 0.01
    assert known.predicted(EVEN, 0.01) == 0.0
    assert known.predicted(EVEN, 0.0) == 0.0


@given(
    predicted=st.floats(0.0, 1.0),
    risk=st.floats(0.0, 1.0),
    lengths=st.sampled_from([EVEN, LONG]),
)
def test_what_is_predicted_below_the_limit_is_within_the_risk(
    predicted: float, risk: float, lengths: LengthDistribution
) -> None:
    known = calibration()
    limit = known.predicted(lengths, risk)
    if predicted < limit:
        assert known.calibrated(lengths, predicted) <= risk + 1e-12
    if predicted > limit * (1.0 + 1e-9):
        assert known.calibrated(lengths, predicted) >= min(risk, 1.0) - 1e-12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": np.array([0.0, 0.1, 0.5])}, "levels must be a vector of probabilities"),
        ({"levels": np.array([0.1, 0.1, 0.5])}, "levels must rise"),
        ({"levels": np.array([])}, "levels must rise, and be at least one"),
        ({"longest": (20, 10)}, "ranges of predicted tokens must rise"),
        ({"longest": ()}, "ranges of predicted tokens must rise, and be at least one"),
        ({"scores": np.array([[0.1, 0.2, 0.3]])}, r"scores must have the shape \(2, 3\)"),
        ({"scores": np.array([[0.3, 0.2, 0.4], [0, 0, 0]])}, "do not fall"),
        ({"scores": np.array([[0.1, 0.2, 1.4], [0, 0, 0]])}, "scores must be probabilities"),
        ({"scores": np.array([[0.1, np.nan, 0.4], [0, 0, 0]])}, "scores must be probabilities"),
    ],
)
def test_what_is_no_calibration_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(**changed)


def test_exact_ranks() -> None:
    # 19 scores: a new one is below the lowest with a probability of 1/20, and so on.
    lengths = LengthDistribution(np.full(19, 1 / 19), 1)
    known = fit_calibration([lengths] * 19, list(range(1, 20)))
    assert known.pairs == 19
    assert known.levels.tolist() == [level for level in LEVELS if level >= 0.05]
    # The longest response had the lowest score, P(N' >= 19) = 1/19.
    assert known.scores[0, 0] == pytest.approx(1 / 19)
    assert known.scores[0, list(known.levels).index(0.5)] == pytest.approx(10 / 19)


def test_one_pair_tells_that_a_longer_one_is_as_probable() -> None:
    known = fit_calibration([EVEN], [5])
    assert known.levels[0] == 0.5
    assert known.scores[0, 0] == pytest.approx(score(EVEN, 5))


def test_ranges_need_pairs_enough_on_both_sides() -> None:
    few, many = PAIRS_PER_RANGE - 1, PAIRS_PER_RANGE
    assert fit_calibration([EVEN] * few + [LONG] * many, [5] * (few + many)).longest == (20,)
    assert fit_calibration([EVEN] * many + [LONG] * few, [5] * (few + many)).longest == (20,)
    known = fit_calibration([EVEN] * many + [LONG] * many, [5] * many + [15] * many)
    assert known.longest == (10, 20)
    assert known.levels.tolist() == list(LEVELS)


def test_a_calibration_needs_pairs() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        fit_calibration([], [])
    with pytest.raises(ValueError, match="zip"):
        fit_calibration([EVEN], [1, 2])
