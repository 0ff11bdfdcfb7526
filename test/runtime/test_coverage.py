# SPDX-License-Identifier: Apache-2.0
"""The window of past responses, alone and behind a server in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.budget.calibration import fit_calibration, pit_share
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import FixedPlanner, TimeBillPlanner
from timebill_ros.budget.risk import HEAVY_EVICTION, LengthRisk
from timebill_ros.budget.time_model import Quadratic
from timebill_ros.runtime.coverage_tracker import CoverageTracker, RecentLengths, evenly_spread
from timebill_ros.runtime.outcome import Reason
from timebill_ros.runtime.policy import OverrunPolicy

from .at_once import run_at_once
from .simulated import SLOW_PREFILL, Scene

LENGTHS = LengthDistribution(np.full(100, 0.01), 1)
CALIBRATION = fit_calibration([LENGTHS] * 400, [1 + i % 100 for i in range(400)])


def planned(tracker: CoverageTracker, risk: float) -> int:
    return tracker.assess(LENGTHS).planned_tokens(risk, max_tokens=400)


def test_a_calibrated_predictor_is_trusted_from_the_start() -> None:
    tracker = CoverageTracker(CALIBRATION)
    assert tracker.assess(LENGTHS).miss_probability(90) == pytest.approx(0.1, abs=0.02)
    assert planned(tracker, 0.1) in (90, 91)


def test_every_request_has_another_place() -> None:
    tracker = CoverageTracker(CALIBRATION)
    places = [tracker.assess(LENGTHS).pit_share for _ in range(10)]
    assert places == [pit_share(number) for number in range(1, 11)]


def test_without_calibration_nothing_is_known_until_responses_come() -> None:
    tracker = CoverageTracker()
    assert tracker.assess(LENGTHS).miss_probability(50) is None
    assert planned(tracker, 0.99) == 400
    for n in range(1, 20):
        tracker.observe(tracker.assess(LENGTHS), 5 * n, complete=True)
    # Of 20 ranks, the response to come is beyond all 19 with probability 1/20.
    assert planned(tracker, 0.05) in (94, 95)
    assert planned(tracker, 0.04) == 400


def test_a_calibration_from_few_pairs_promises_no_rarer_miss_than_they_show() -> None:
    few = fit_calibration([LENGTHS] * 19, [5 * n for n in range(1, 20)])
    assert planned(CoverageTracker(few), 0.06) < 400
    assert planned(CoverageTracker(few), 0.04) == 400


def test_the_latest_responses_decide() -> None:
    tracker = CoverageTracker(CALIBRATION, window=50)
    for _ in range(50):
        tracker.observe(tracker.assess(LENGTHS), 99, complete=True)
    assert planned(tracker, 0.05) in (98, 99)
    assert tracker.assess(LENGTHS).miss_probability(97) == 1.0


def test_one_cut_off_counts_as_longer() -> None:
    complete, cut_off = CoverageTracker(CALIBRATION), CoverageTracker(CALIBRATION)
    for _ in range(50):
        complete.observe(complete.assess(LENGTHS), 20, complete=True)
        cut_off.observe(cut_off.assess(LENGTHS), 20, complete=False)
    assert planned(complete, 0.1) < planned(cut_off, 0.1)


def test_responses_that_run_on_after_large_evictions_count_apart() -> None:
    tracker = CoverageTracker(CALIBRATION, window=50)
    for _ in range(50):
        tracker.observe(tracker.assess(LENGTHS), 98, complete=False, alpha=0.9)
    known = tracker.assess(LENGTHS)
    assert known.at(0.0).planned_tokens(0.1, max_tokens=400) in (90, 91)
    assert known.at(HEAVY_EVICTION).planned_tokens(0.1, max_tokens=400) in (90, 91)
    assert known.at(0.9).planned_tokens(0.1, max_tokens=400) == 400


@pytest.mark.parametrize("calibration", [CALIBRATION, None], ids=["surprised", "uncalibrated"])
def test_plans_for_n_max_do_not_last_where_they_all_evict_most(calibration: object) -> None:
    tracker = CoverageTracker(calibration, window=50)
    for _ in range(10):
        tracker.observe(tracker.assess(LENGTHS), 101, complete=False)
    assert planned(tracker, 0.05) == 400
    for n in range(50):
        tracker.observe(tracker.assess(LENGTHS), 1 + 2 * n, complete=True, alpha=0.9)
    assert planned(tracker, 0.05) in range(93, 99)


def test_a_response_that_did_not_begin_says_nothing() -> None:
    tracker = CoverageTracker()
    tracker.observe(tracker.assess(LENGTHS), 0, complete=False)
    assert tracker.assess(LENGTHS).miss_probability(50) is None


def test_the_first_scores_are_evenly_spread_and_so_is_what_is_left_of_them() -> None:
    spread = evenly_spread(200)
    assert sorted(spread) == pytest.approx([i / 201 for i in range(1, 201)])
    for gone in (50, 100, 150):
        left = np.sort(spread[gone:])
        even = np.arange(1, left.size + 1) / (left.size + 1)
        assert np.abs(left - even).max() < 0.03


def test_many_threads_may_observe_and_assess() -> None:
    tracker = CoverageTracker(CALIBRATION)

    def work() -> None:
        for n in range(1, 101):
            tracker.observe(tracker.assess(LENGTHS), n, complete=n % 2 == 0)
            assert tracker.assess(LENGTHS).coverage.predicted.size == 200

    run_at_once(work)


class RecordingTracker(CoverageTracker):
    """Keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(CALIBRATION)
        self.told: list[tuple[int, bool]] = []
        self.alphas: list[float] = []

    def observe(
        self, known: LengthRisk, response_tokens: int, *, complete: bool, alpha: float = 0.0
    ) -> None:
        self.told.append((response_tokens, complete))
        self.alphas.append(alpha)
        super().observe(known, response_tokens, complete=complete, alpha=alpha)


def scene(**settings: object) -> Scene:
    parts = {
        "predictor_time": Quadratic(0.0, 1e-6, 0.0),
        "planner": TimeBillPlanner(risk=0.1),
        "coverage": RecordingTracker(),
    }
    return Scene(**{**parts, **settings})  # type: ignore[arg-type]


def test_plans_are_made_for_the_risk_and_say_it() -> None:
    served = scene()
    served.job("a", lengths=LENGTHS)
    served.run()
    plan = served.response("a").plan
    assert plan.planned_tokens in (90, 91)
    assert plan.risk == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(
    ("settings", "policy", "told"),
    [
        ({"response_tokens": 11}, OverrunPolicy.KILL, (11, True)),
        ({"response_tokens": 1}, OverrunPolicy.KILL, (1, True)),
        ({"response_tokens": 50, "max_tokens": 20}, OverrunPolicy.KILL, (20, False)),
        # 10 ms of prefill, then a token every 1 ms.
        ({"response_tokens": 50, "budget_ms": 30}, OverrunPolicy.KILL, (21, False)),
        ({"response_tokens": 50, "budget_ms": 30}, OverrunPolicy.SKIP_NEXT, (50, True)),
        ({"response_tokens": 50, "budget_ms": 30}, OverrunPolicy.ANYTIME, (21, False)),
    ],
)
def test_every_response_s_length_counts_as_far_as_it_is_known(
    settings: dict, policy: OverrunPolicy, told: tuple[int, bool]
) -> None:
    tracker = RecordingTracker()
    served = scene(policy=policy, coverage=tracker)
    served.job("a", lengths=LENGTHS, **settings)
    served.run()
    assert tracker.told == [told]


def test_a_response_counts_for_the_ratio_that_was_evicted() -> None:
    tracker = RecordingTracker()
    served = scene(coverage=tracker, planner=FixedPlanner(alpha=0.875))
    served.job("a", lengths=LENGTHS)
    served.run()
    assert tracker.alphas == [0.875]


def test_what_has_no_prediction_or_ends_before_its_plan_does_not_count() -> None:
    tracker = RecordingTracker()
    served = scene(coverage=tracker, predictor_time=Quadratic(0.0, 0.0, 9.0))
    served.job("no prediction in time")
    served.run()
    served = scene(coverage=tracker, **SLOW_PREFILL)
    served.job("killed in prefill", budget_ms=5)
    served.run()
    assert served.overrun("killed in prefill").reason is Reason.KILLED
    assert tracker.told == []


def test_surprisingly_long_responses_make_later_plans_longer() -> None:
    served = scene(default_max_tokens=1000)
    for n in range(60):
        served.job(f"{n}", release_ms=1000 * n, response_tokens=100, lengths=LENGTHS)
    served.run()
    assert served.response("0").plan.planned_tokens in (90, 91)
    # A quarter of the last 200 scores are those of the longest length predicted at all.
    assert served.response("59").plan.planned_tokens >= 99


def test_before_anything_was_seen_every_length_is_as_likely() -> None:
    lengths = RecentLengths().distribution(400)
    assert lengths.beyond(100) == pytest.approx(0.75)
    assert RecentLengths().distribution(1).beyond(1) == pytest.approx(0.0)


def test_what_was_seen_counts_most() -> None:
    recent = RecentLengths()
    for _ in range(99):
        recent.observe(20, complete=True)
    assert recent.distribution(400).beyond(24) == pytest.approx(0.01, abs=0.002)


def test_one_that_was_cut_off_is_longer() -> None:
    recent = RecentLengths()
    for _ in range(99):
        recent.observe(200, complete=False)
    assert recent.distribution(400).beyond(200) > 0.9


def test_only_the_latest_count() -> None:
    recent = RecentLengths(window=10)
    for tokens in [400] * 10 + [8] * 10:
        recent.observe(tokens, complete=True)
    assert recent.distribution(400).beyond(8) < 0.1
