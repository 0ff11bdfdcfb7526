# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.budget.risk import Coverage, Observation, observed_coverage


def complete(*predicted: float) -> list[Observation]:
    return [Observation(value, complete=True) for value in predicted]


def test_the_misses_are_the_ranks_among_complete_responses() -> None:
    coverage = observed_coverage(complete(0.8, 0.2, 0.6, 0.4))
    assert coverage.observed == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [coverage.risk(s) for s in (0.0, 0.1, 0.2, 0.5, 0.8)] == pytest.approx(
        [0.2, 0.2, 0.4, 0.6, 1.0]
    )
    assert [coverage.predicted_for(r) for r in (0.1, 0.2, 0.5, 0.8, 0.99)] == pytest.approx(
        [0.0, 0.2, 0.4, 0.8, 0.8]
    )


def test_nothing_observed_promises_nothing() -> None:
    coverage = observed_coverage([])
    assert coverage.risk(0.0) == 1.0
    assert coverage.predicted_for(0.999) == 0.0


def test_one_cut_off_gives_its_share_to_those_that_got_further() -> None:
    seen = [*complete(0.8, 0.4, 0.2), Observation(0.6, complete=False)]
    # Worked by hand: 5 there at first, 3 from 0.4 on, of which 1/3 and then 1/2 ended.
    assert observed_coverage(seen).observed == pytest.approx(
        [4 / 5 * 2 / 3 * 1 / 2, 4 / 5 * 2 / 3, 4 / 5, 4 / 5]
    )


def test_one_cut_off_at_what_another_reached_is_not_taken_to_have_reached_it() -> None:
    coverage = observed_coverage([Observation(0.5, complete=False), *complete(0.5)])
    # Of the complete one and the response to come, each is as likely the longer.
    assert coverage.risk(0.4) == pytest.approx(0.5)


def test_responses_that_were_all_cut_off_promise_nothing() -> None:
    coverage = observed_coverage([Observation(0.1 * i, complete=False) for i in range(1, 9)])
    assert coverage.predicted_for(0.9) == 0.0


seen = st.lists(st.builds(Observation, st.integers(0, 20).map(lambda n: n / 20), st.booleans()))


@given(seen=seen, risk=st.floats(0.0, 0.999), predicted=st.floats(0.0, 1.0))
def test_what_is_stated_below_the_limit_is_within_the_risk(
    seen: list[Observation], risk: float, predicted: float
) -> None:
    coverage = observed_coverage(seen)
    assert np.all(np.diff(coverage.predicted) >= 0.0)
    assert np.all(np.diff(coverage.observed) >= 0.0)
    assert (coverage.risk(predicted) <= risk + 1e-9) == (predicted < coverage.predicted_for(risk))


@given(seen=seen)
def test_one_more_cut_off_never_lowers_the_risk(seen: list[Observation]) -> None:
    before = observed_coverage(seen)
    after = observed_coverage([*seen, Observation(0.0, complete=False)])
    for predicted in np.linspace(0.0, 1.0, 21):
        assert after.risk(predicted) >= before.risk(predicted) - 1e-12


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_product_limit_recovers_what_independent_cutting_hides(risk: float) -> None:
    # True scores are uniform, and half of the responses may be cut off before they end.
    rng = np.random.default_rng(0)
    true, cut = rng.uniform(size=4000), rng.uniform(-0.2, 1.0, size=4000)
    seen = [Observation(max(s, c), complete=s >= c) for s, c in zip(true, cut, strict=True)]
    assert np.mean([s.complete for s in seen]) < 0.65
    coverage = observed_coverage(seen)
    assert coverage.predicted_for(risk) == pytest.approx(risk, abs=0.02)
    dropped = observed_coverage([s for s in seen if s.complete])
    assert dropped.predicted_for(risk) > 1.5 * risk


def test_coverage_of_an_empty_window_is_a_value() -> None:
    assert Coverage(np.array([]), np.array([])).risk(0.5) == 1.0
