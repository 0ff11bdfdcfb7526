# SPDX-License-Identifier: Apache-2.0
"""Jobs whose prefill alone would outlast their deadline. 1,000 tokens take 10 ms to prefill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timebill_ros.budget.time_model import Quadratic
from timebill_ros.runtime.outcome import Stage
from timebill_ros.runtime.pace_tracker import PaceTracker
from timebill_ros.runtime.policy import OverrunPolicy

from .simulated import FLAT, Scene


def test_a_job_whose_prefill_cannot_end_in_time_leaves_the_engine_to_others() -> None:
    scene = Scene()
    scene.job("hopeless", budget_ms=9)
    scene.job("behind", budget_ms=20)
    assert scene.story() == [("hopeless", "expired", 0.0), ("behind", "response", 20.0)]
    hopeless = scene.overrun("hopeless")
    assert hopeless.stage is Stage.QUEUED
    assert hopeless.predicted_prefill == pytest.approx(0.010)
    assert hopeless.detail == (
        "deadline: 0.009 s ahead, but prefill of 1000 tokens alone is predicted to take 0.010 s"
    )


def test_skip_next_runs_even_a_hopeless_job_for_its_late_answer() -> None:
    scene = Scene(policy=OverrunPolicy.SKIP_NEXT)
    scene.job("a", budget_ms=9)
    assert [what for _, what, _ in scene.story()] == ["late", "response"]


def test_a_prefill_that_may_be_faster_than_profiled_is_tried() -> None:
    scene = Scene(pace=PaceTracker(prefill_error=0.1), real_times=replace(FLAT, b=0.7e-5))
    scene.job("within three errors", budget_ms=8, response_tokens=1)
    scene.job("beyond", release_ms=50, budget_ms=6, response_tokens=1)
    assert [what for _, what, _ in scene.story()] == ["response", "expired"]


def test_a_machine_that_has_become_faster_is_found_out() -> None:
    scene = Scene(real_times=replace(FLAT, b=0.5e-5))
    for n in range(40):
        scene.job(f"{n}", release_ms=100 * n, budget_ms=8, response_tokens=1)
    story = [what for _, what, _ in scene.story()]
    assert story == ["expired"] * 19 + ["response"] * 21


def test_a_hopeless_job_costs_no_prediction() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.005))
    scene.job("hopeless", budget_ms=9)
    scene.job("behind", release_ms=1)
    scene.run()
    assert scene.overrun("hopeless").timing.predict == 0.0
    assert scene.response("behind").plan.predicted_tokens > 0


def test_what_an_earlier_prompt_left_is_not_counted() -> None:
    scene = Scene()
    scene.job("a", budget_ms=9, response_tokens=1, shared_tokens=400)
    scene.job("hopeless", release_ms=50, budget_ms=5, shared_tokens=400)
    assert scene.story() == [("a", "response", 6.0), ("hopeless", "expired", 50.0)]
    response = scene.response("a")
    assert response.plan.reused_tokens == 400
    assert response.predicted_prefill == pytest.approx(0.006)
    assert "prefill of 600 tokens alone" in scene.overrun("hopeless").detail
