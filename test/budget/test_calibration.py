# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.calibration import LEVELS, Calibration, fit_calibration, pit_share
from timebill_ros.budget.length import LengthDistribution

EVEN = LengthDistribution(np.array([0.5, 0.5]), 10)


def calibration(**changed: object) -> Calibration:
    values = {
        "pairs": 100,
        "levels": np.array([0.01, 0.1, 0.5]),
        "scores": np.array([0.001, 0.1, 0.4]),
    }
    return Calibration(**{**values, **changed})  # type: ignore[arg-type]


def test_known_scores_map_to_their_levels_and_others_between_on_a_logarithmic_scale() -> None:
    known = calibration()
    assert known.calibrated(0.1) == pytest.approx(0.1)
    assert known.calibrated(0.01) == pytest.approx(0.055)
    assert known.calibrated(1.0) == 1.0
    assert known.predicted(0.1) == pytest.approx(0.1)
    assert known.predicted(0.055) == pytest.approx(0.01)


def test_what_is_rarer_than_the_pairs_can_tell_keeps_its_order() -> None:
    known = calibration()
    assert known.calibrated(0.001) == pytest.approx(0.01)
    assert known.calibrated(0.0001) == pytest.approx(0.001)
    assert known.calibrated(0.0) == 0.0
    assert known.predicted(0.001) == pytest.approx(0.0001)
    assert known.predicted(0.0) == 0.0
    assert calibration(scores=np.array([0.0, 0.1, 0.4])).calibrated(0.0) == 0.01


@given(predicted=st.floats(0.0, 1.0), risk=st.floats(0.0, 1.0))
def test_what_is_predicted_below_the_limit_is_within_the_risk(
    predicted: float, risk: float
) -> None:
    known = calibration()
    limit = known.predicted(risk)
    if predicted < limit:
        assert known.calibrated(predicted) <= risk + 1e-12
    if predicted > limit * (1.0 + 1e-8):
        assert known.calibrated(predicted) >= risk - 1e-12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": np.array([0.0, 0.1, 0.5])}, "levels must be a vector of probabilities"),
        ({"levels": np.array([0.1, 0.1, 0.5])}, "levels must rise"),
        ({"levels": np.array([])}, "levels must rise, and be at least one"),
        ({"scores": np.array([[0.1, 0.2, 0.3]])}, r"scores must have the shape \(3,\)"),
        ({"scores": np.array([0.3, 0.2, 0.4])}, "scores must be probabilities that do not fall"),
        ({"scores": np.array([0.1, 0.2, 1.4])}, "scores must be probabilities"),
        ({"scores": np.array([0.1, np.nan, 0.4])}, "scores must be probabilities"),
    ],
)
def test_what_is_no_calibration_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(**changed)


def test_exact_ranks() -> None:
    # 19 scores: a new one is below the lowest with a probability of 1/20, and so on.
    certain = LengthDistribution(np.array([1.0]), 400)
    known = fit_calibration([certain] * 19, [7] * 19)
    scores = sorted(pit_share(number) for number in range(19))
    assert known.pairs == 19
    assert known.levels.tolist() == [level for level in LEVELS if level >= 0.05]
    assert known.scores[0] == scores[0]
    assert known.scores[list(known.levels).index(0.5)] == scores[9]


def test_one_pair_tells_that_a_longer_one_is_as_probable() -> None:
    known = fit_calibration([EVEN], [5])
    assert known.levels[0] == 0.5
    assert known.scores[0] == pytest.approx(EVEN.at_least(5, pit_share(0)))


def test_a_calibration_needs_pairs() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        fit_calibration([], [])
    with pytest.raises(ValueError, match="zip"):
        fit_calibration([EVEN], [1, 2])


def test_places_are_even_among_any_that_follow_each_other() -> None:
    for start in (0, 123_456):
        places = np.sort([pit_share(number) for number in range(start, start + 50)])
        assert np.abs(places - (np.arange(50) + 0.5) / 50).max() < 0.04


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_a_predictor_that_is_too_sure_is_corrected(risk: float) -> None:
    """Lengths are spread more widely than predicted; what is planned covers 1 - risk of them."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[list[LengthDistribution], list[int]]:
        middles = rng.integers(100, 300, count)
        buckets = np.arange(400)
        sure = [np.exp(-0.5 * ((buckets - middle) / 5.0) ** 2) + 1e-6 for middle in middles]
        lengths = [LengthDistribution(p / p.sum(), 1) for p in sure]
        return lengths, [int(n) for n in np.round(rng.normal(middles + 1.0, 20.0))]

    known = fit_calibration(*drawn(2000))
    assert known.predicted(risk) < 0.5 * risk
    lengths, actual = drawn(2000)
    planned = [
        each.tokens_below(known.predicted(risk), pit_share(number)) or 400
        for number, each in enumerate(lengths)
    ]
    covered = np.mean([n <= most for n, most in zip(actual, planned, strict=True)])
    assert covered == pytest.approx(1.0 - risk, abs=0.02)
