# SPDX-License-Identifier: Apache-2.0
"""The window of past responses, alone and behind a server in virtual time."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from timebill_ros.budget.calibration import fit_calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.runtime.coverage import CoverageTracker, evenly_spread

LENGTHS = LengthDistribution(np.full(100, 0.01), 1)
CALIBRATION = fit_calibration([LENGTHS] * 400, [1 + i % 100 for i in range(400)])


def test_a_calibrated_predictor_is_trusted_from_the_start() -> None:
    known = CoverageTracker(CALIBRATION).assess(LENGTHS)
    assert known is not None
    assert known.miss_probability(90) == pytest.approx(0.1, abs=0.02)
    assert known.planned_tokens(0.1, max_tokens=400) in (90, 91)


def test_without_calibration_nothing_is_known_until_responses_come() -> None:
    tracker = CoverageTracker()
    assert tracker.assess(LENGTHS) is None
    for n in range(1, 20):
        tracker.observe(LENGTHS, 5 * n, complete=True)
    known = tracker.assess(LENGTHS)
    assert known is not None
    # Of 20 ranks, the response to come is beyond all 19 with probability 1/20.
    assert known.planned_tokens(0.05, max_tokens=400) == 95
    assert known.planned_tokens(0.04, max_tokens=400) == 400


def test_the_latest_responses_decide() -> None:
    tracker = CoverageTracker(CALIBRATION, window=50)
    for _ in range(50):
        tracker.observe(LENGTHS, 99, complete=True)
    known = tracker.assess(LENGTHS)
    assert known is not None
    assert known.planned_tokens(0.2, max_tokens=400) == 99
    assert known.miss_probability(98) == 1.0


def test_one_cut_off_counts_as_longer() -> None:
    complete, cut_off = CoverageTracker(CALIBRATION), CoverageTracker(CALIBRATION)
    for _ in range(50):
        complete.observe(LENGTHS, 20, complete=True)
        cut_off.observe(LENGTHS, 20, complete=False)
    planned = []
    for tracker in (complete, cut_off):
        known = tracker.assess(LENGTHS)
        assert known is not None
        planned.append(known.planned_tokens(0.1, max_tokens=400))
    assert planned[0] < planned[1]


def test_a_response_that_did_not_begin_says_nothing() -> None:
    tracker = CoverageTracker()
    tracker.observe(LENGTHS, 0, complete=False)
    assert tracker.assess(LENGTHS) is None


def test_the_first_scores_are_evenly_spread_and_so_is_what_is_left_of_them() -> None:
    spread = evenly_spread(200)
    assert sorted(spread) == pytest.approx([i / 201 for i in range(1, 201)])
    for gone in (50, 100, 150):
        left = np.sort(spread[gone:])
        even = np.arange(1, left.size + 1) / (left.size + 1)
        assert np.abs(left - even).max() < 0.03


def test_many_threads_may_observe_and_assess() -> None:
    tracker = CoverageTracker(CALIBRATION)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for n in range(1, 101):
                tracker.observe(LENGTHS, n, complete=n % 2 == 0)
                known = tracker.assess(LENGTHS)
                assert known is not None
                assert known.coverage.stated.size == 200
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert not failures
