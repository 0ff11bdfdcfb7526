# SPDX-License-Identifier: Apache-2.0
"""Methods on made-up answers, in the runtime's own virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timebill_ros.bench.grounds import Ground
from timebill_ros.bench.methods import METHODS
from timebill_ros.bench.outcomes import Row, run, whole_time
from timebill_ros.budget.quality import LeverQuality, QualityCurve

from .made_up import CASES, CURVE, MODEL, ground, likely


def outcomes(name: str, budget: float, policy: str = "kill") -> list[Row]:
    return run(ground(), name, METHODS[name], budget, policy)


def told(rows: list[Row]) -> list[tuple[str, float]]:
    return [(row.outcome, row.score) for row in rows]


def test_the_time_without_levers() -> None:
    assert whole_time(MODEL, CASES[0]) == pytest.approx(0.01 + MODEL.decode(1000, 10))


def test_vanilla_ends_in_time_or_not_at_all() -> None:
    rows = outcomes("vanilla", 0.12)
    assert told(rows)[:2] == [("in time", 100.0), ("in time", 100.0)]
    assert rows[0].total == pytest.approx(whole_time(MODEL, CASES[0]), abs=1e-6)
    assert rows[2].score == 0.0
    assert rows[2].outcome in ("killed", "expired")


def test_under_skip_next_a_late_answer_counts_nothing_and_costs_the_next() -> None:
    rows = outcomes("vanilla", 0.09, "skip_next")
    assert told(rows) == [("in time", 100.0), ("late", 0.0), ("skipped", 0.0)]


def test_anytime_scores_what_the_deadline_leaves_of_the_answer() -> None:
    rows = outcomes("vanilla", 0.212, "anytime")
    assert [row.outcome for row in rows] == ["in time", "in time", "truncated"]
    whole, cut = CASES[2].whole, rows[2]
    assert cut.response_tokens == 17
    # 10 ms are kept free for completing the answer.
    assert 0.16 + MODEL.decode(16000, 17) <= 0.202 < 0.16 + MODEL.decode(16000, 18)
    left = whole.cut(17)
    assert left == "one. two. three. four. five. six."
    # 6 of the reference's 10 words, and no others.
    assert cut.score == pytest.approx(100.0 * 2 * 6 / 16)
    assert outcomes("vanilla", 0.212)[2].score == 0.0


def test_anytime_gives_no_answer_where_nothing_stands_for_itself() -> None:
    row = outcomes("vanilla", 0.172, "anytime")[2]
    assert row.response_tokens == 1
    assert CASES[2].whole.cut(1) == "" != CASES[2].whole.cut(2)
    assert (row.outcome, row.score) == ("killed", 0.0)


def test_jobs_that_come_together_wait_for_each_other() -> None:
    alone = whole_time(MODEL, CASES[0])
    together = replace(ground(), arrivals=[0, 0, 10_000_000_000])
    rows = run(together, "vanilla", METHODS["vanilla"], 1.5 * alone, "kill")
    assert [row.outcome for row in rows[:2]] == ["in time", "expired"]
    assert rows[0].total == pytest.approx(alone, abs=1e-6)


def test_arrivals_are_gone_through_again_after_a_mean_gap() -> None:
    assert replace(ground(), arrivals=[0, 4, 6]).releases(1.0) == [0, 4, 6]
    assert replace(ground(), arrivals=[0, 4]).releases(1.0) == [0, 4, 8]
    assert replace(ground(), arrivals=[0]).releases(1.0) == [0, 0, 0]
    assert ground().releases(0.5) == [0, 500_000_000, 1_000_000_000]


def test_what_states_tell_is_known_after_prefill_and_of_the_prompt_that_was_prefilled() -> None:
    by_state = {
        each.case: {1.0: likely(100), 0.5: likely(200), 0.25: likely(300)} for each in CASES
    }
    states = replace(ground(), lengths={}, by_state=by_state)
    rows = run(states, "timebill-k1", METHODS["timebill-k1"], 1.0, "kill")
    assert [row.predicted_tokens for row in rows] == [112] * 3
    rows = run(states, "expected", METHODS["expected"], 0.09, "kill")
    shares = {1.0: 112, 0.5: 208, 0.25: 304}
    assert len({row.rho for row in rows}) > 1
    assert [row.predicted_tokens for row in rows] == [shares[row.rho] for row in rows]
    knows = run(states, "oracle", METHODS["oracle-length"], 1.0, "kill")
    assert [row.predicted_tokens for row in knows] == [10, 20, 30]


def test_expected_shortens_what_would_be_late() -> None:
    rows = outcomes("expected", 0.09)
    assert [row.outcome for row in rows] == ["in time"] * 3
    assert [row.rho for row in rows] == [1.0, 0.5, 0.25]
    assert [row.score for row in rows] == [100.0, 90.0, 80.0]
    assert rows[1].prompt_tokens == 4000
    assert rows[1].expected_score == pytest.approx(70.0, abs=2.0)


def two_models() -> Ground:
    """A second model, ten times as fast, whose answers score half and are twice as long."""
    cases = [
        replace(
            case,
            answers=tuple(
                replace(a, score=a.score / 2, response_tokens=2 * a.response_tokens)
                for a in case.answers
            ),
        )
        for case in CASES
    ]
    halved = QualityCurve(tuple(replace(p, score=p.score / 2) for p in CURVE.points))
    quality = LeverQuality(halved, CURVE, measured=True)
    larger = ground()
    times = MODEL.slowed(0.1, 0.1)
    smaller = replace(larger, time_model=times, quality=quality, cases=cases)
    return replace(larger, smaller=smaller)


def test_a_cascade_answers_by_the_smaller_model_what_the_larger_cannot() -> None:
    rows = run(two_models(), "cascade", METHODS["cascade"], 0.04, "kill")
    assert [row.model for row in rows] == ["", "smaller", "smaller"]
    assert [row.outcome for row in rows] == ["in time"] * 3
    assert [row.score for row in rows] == [100.0, 50.0, 50.0]
    assert [row.response_tokens for row in rows] == [10, 40, 60]
    alone = run(two_models(), "expected", METHODS["expected"], 0.04, "kill")
    assert {row.model for row in alone} == {""}
    assert sum(row.score for row in alone) < sum(row.score for row in rows)


def test_with_ample_time_a_cascade_is_the_larger_model() -> None:
    rows = run(two_models(), "cascade", METHODS["cascade"], 1.0, "kill")
    assert told(rows) == told(run(two_models(), "expected", METHODS["expected"], 1.0, "kill"))


def test_hindsight_is_never_worse() -> None:
    for budget in (0.03, 0.06, 0.09, 0.12, 0.2):
        best = [row.score for row in outcomes("hindsight", budget)]
        for name in ("vanilla", "fixed-0.5", "timebill-k5", "expected", "expected-no-predictor"):
            scores = [row.score for row in outcomes(name, budget)]
            assert all(score <= top for score, top in zip(scores, best, strict=True))


def test_hindsight_counts_with_the_deadline_cutting_answers() -> None:
    """Nothing of "longer" ends within 60 ms, whatever is evicted; half of its quarter comes."""
    alone = outcomes("hindsight", 0.06)[2]
    cut = outcomes("hindsight", 0.06, "anytime")[2]
    assert (alone.outcome, cut.outcome) == ("killed", "truncated")
    assert 0 < cut.response_tokens < 30
    assert cut.total <= 0.06 < cut.total + 2e-3
    assert cut.score > 0.0


def test_eviction_alone_does_not_select() -> None:
    assert {row.rho for row in outcomes("expected-alpha", 0.12)} == {1.0}
    assert {row.alpha for row in outcomes("expected-rho", 0.12)} == {0.0}


def test_nothing_is_selected_by_a_method_that_was_never_measured() -> None:
    unmeasured = replace(ground(), quality=LeverQuality(CURVE, None, measured=True))
    for name in ("expected", "expected-rho", "expected-no-predictor"):
        rows = run(unmeasured, name, METHODS[name], 0.09, "kill")
        assert {row.rho for row in rows} == {1.0}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_every_case_one_row(name: str) -> None:
    for policy in ("kill", "skip_next", "anytime"):
        rows = outcomes(name, 0.1, policy)
        assert [row.case for row in rows] == ["short", "long", "longer"]
        assert {row.given_tokens for row in rows} == {1000, 8000, 16000}
