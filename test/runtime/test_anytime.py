# SPDX-License-Identifier: Apache-2.0
"""The policy Anytime in virtual time: prefill takes 10 ms, then 1 ms makes a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.runtime.outcome import Overrun, Partial, Reason, Response, Stage
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.simulation import ScaledClock

from .simulated import FLAT, MS, SLOW_PREFILL, Scene


def anytime(**settings: object) -> Scene:
    return Scene(policy=OverrunPolicy.ANYTIME, **settings)


@pytest.mark.parametrize(
    ("margin", "ends", "tokens"),
    [
        (0.0, 15.0, 6),
        (0.0005, 14.0, 5),
        (0.001, 14.0, 5),
        (0.0015, 13.0, 4),
        (0.005, 10.0, 1),
        (1.0, 10.0, 1),
    ],
)
def test_the_answer_comes_while_a_step_and_the_margin_are_left(
    margin: float, ends: float, tokens: int
) -> None:
    scene = anytime(anytime_margin=margin)
    scene.job("a", budget_ms=15, response_tokens=100)
    assert scene.story() == [("a", "response", ends)]
    response = scene.response("a")
    assert (response.response_tokens, response.text) == (tokens, "x" * tokens)
    assert (response.finish_reason, response.truncated) == (FinishReason.DEADLINE, True)
    assert not response.late
    assert response.timing.slack == pytest.approx((15.0 - ends) / 1e3)


def test_what_ends_in_time_is_whole() -> None:
    scene = anytime()
    scene.job("a", budget_ms=20, response_tokens=11)
    assert scene.story() == [("a", "response", 20.0)]
    response = scene.response("a")
    assert (response.finish_reason, response.truncated) == (FinishReason.EOS, False)


@pytest.mark.parametrize("margin", [0.0, 0.005, 0.01])
def test_a_plan_that_holds_leaves_the_margin_and_the_answer_whole(margin: float) -> None:
    growing = TimeModel(**{**vars(FLAT), "p": 1e-6})
    scene = anytime(
        time_model=growing, planner=TimeBillPlanner(pessimism=1.0), anytime_margin=margin
    )
    scene.job("a", budget_ms=120, response_tokens=64, max_tokens=64)
    scene.run()
    response = scene.response("a")
    assert response.plan.feasible
    assert 0.0 < response.plan.alpha < 0.95
    assert (response.truncated, response.response_tokens) == (False, 64)
    assert margin <= response.timing.slack < margin + 0.001


def test_what_cannot_stand_for_itself_is_killed_with_its_text() -> None:
    scene = anytime(anytime_margin=0.002)
    scene.job("a", budget_ms=15, response_tokens=100, least_complete=5)
    assert scene.story() == [("a", "killed", 13.0)]
    killed = scene.overrun("a")
    assert (killed.stage, killed.partial_text, killed.response_tokens) == (Stage.DECODE, "xxxx", 4)
    assert "nothing generated can stand for itself" in killed.detail


def test_a_deadline_in_prefill_is_still_killed() -> None:
    scene = anytime(chunk=400, **SLOW_PREFILL)
    scene.job("a", budget_ms=5)
    scene.job("b", release_ms=1, budget_ms=8)
    assert scene.story() == [("a", "killed", 8.0), ("b", "killed", 12.0)]
    assert scene.overrun("a").stage is Stage.PREFILL


def slow_down(scene: Scene, by_ns: int) -> None:
    """Let each decoding step take so much longer than the time model says."""
    step = scene.engine.step

    def slow_step() -> None:
        scene.clock.advance(by_ns)
        step()

    scene.engine.step = slow_step  # type: ignore[method-assign]


def test_a_step_that_takes_longer_than_predicted_is_killed_and_not_late() -> None:
    scene = anytime(anytime_margin=0.0005)
    scene.job("a", budget_ms=15, response_tokens=100)
    slow_down(scene, MS + MS // 2)
    scene.run()
    # 10.0, 12.5: another such step and the margin would end at 15.5.
    assert [type(o) for o in scene.outcomes] == [Response]
    assert scene.response("a").timing.slack == pytest.approx(0.0025)

    slower = anytime(anytime_margin=0.0005)
    slower.job("a", budget_ms=15, response_tokens=100)
    slow_down(slower, 5 * MS)
    assert slower.story() == [("a", "killed", 16.0)]
    assert slower.overrun("a").reason is Reason.KILLED


def test_closing_that_outlasts_the_deadline_is_killed() -> None:
    scene = anytime()
    scene.job("a", budget_ms=15, response_tokens=100)

    def close_slowly() -> str:
        scene.clock.advance(1)
        return "too late"

    scene.engine.complete_prefix = close_slowly  # type: ignore[method-assign]
    assert scene.story() == [("a", "killed", 15.0 + 1 / MS)]


def test_the_time_of_whoever_looks_on_counts() -> None:
    def look_slowly(partial: Callable[[], Partial]) -> None:
        if partial().response_tokens == 4:
            scene.clock.advance(MS + MS // 2)

    scene = anytime(observe=lambda job: look_slowly)
    scene.job("a", budget_ms=15, response_tokens=100)
    assert scene.story() == [("a", "response", 14.5)]


def test_the_jobs_behind_are_served_on_time() -> None:
    scene = anytime(anytime_margin=0.001)
    scene.job("a", budget_ms=15, response_tokens=100)
    scene.job("b", release_ms=1, budget_ms=39)
    assert scene.story() == [("a", "response", 14.0), ("b", "response", 34.0)]


def test_what_is_canceled_is_not_answered() -> None:
    scene = anytime()
    scene.job("a", budget_ms=15, response_tokens=100)
    scene.clock.at(12 * MS + MS // 2, lambda: scene.server.cancel_all("withdrawn"))
    assert scene.story() == [("a", "canceled", 13.0)]


def test_a_slow_clock_leaves_more_real_time() -> None:
    scene = anytime(
        anytime_margin=0.001, deadline_clock_over=lambda real: ScaledClock(real, rate=0.5)
    )
    scene.job("a", budget_ms=15, response_tokens=100)
    assert scene.story() == [("a", "response", 29.0)]
    assert scene.response("a").response_tokens == 20


def test_steps_of_a_schema_are_expected_to_take_their_longer_time() -> None:
    model = TimeModel(**{**vars(FLAT), "q_structured": 0.5e-3})
    scene = anytime(time_model=model)
    scene.job("a", budget_ms=15, response_tokens=100, response_schema="{}")
    # Prefill until 10.5, then 1.5 ms a token: 12.0, 13.5, 15.0.
    assert scene.story() == [("a", "response", 15.0)]
    assert scene.response("a").response_tokens == 4


@pytest.mark.parametrize("slower", [1.3, 2.0, 5.0])
def test_a_machine_slower_than_its_profile_costs_one_answer_and_then_none(slower: float) -> None:
    scene = anytime(real_times=replace(FLAT, q=slower * FLAT.q), anytime_margin=0.0)
    for n in range(20):
        # Budgets that end anywhere within a step.
        scene.job(f"{n}", release_ms=1000 * n, budget_ms=40 + n, response_tokens=1000)
    scene.run()
    killed = [o.job.id for o in scene.outcomes if isinstance(o, Overrun)]
    assert killed in ([], ["0"])
    for outcome in scene.outcomes[1:]:
        assert isinstance(outcome, Response)
        assert outcome.timing.slack < slower * FLAT.q, "no token less than could be had"


def test_a_rare_slow_step_does_not_shorten_the_answers_that_follow() -> None:
    scene = anytime()
    steps = count(1)

    def step_or_pause() -> None:
        step()
        if next(steps) == 20:
            scene.clock.advance(30 * MS)

    step, scene.engine.step = scene.engine.step, step_or_pause  # type: ignore[method-assign]
    for n in range(3):
        scene.job(f"{n}", release_ms=1000 * n, budget_ms=200, response_tokens=1000)
    scene.run()
    assert [scene.response(f"{n}").response_tokens for n in range(3)] == [161, 191, 191]
