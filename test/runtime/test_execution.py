# SPDX-License-Identifier: Apache-2.0
"""Prediction beside prefill, the plan's inputs and the bounds on an instruction."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from timebill_ros.budget.planners import FixedPlanner, TimeBillPlanner
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.errors import ConversationRefused, SchemaRefused
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, PreparedRequest, SamplingOverride
from timebill_ros.runtime.outcome import Reason, Stage
from timebill_ros.runtime.simulation import SimulatedRequest

from .simulated import MS, SLOW_PREFILL, Scene

# A step of 1 ms over an empty cache, 2 ms more per 1,000 cached tokens.
GROWING = TimeModel(a=0.0, b=1e-5, c=0.0, p=2e-6, q=1e-3, evict_rate=1e-6, evict_base=0.0)


def test_a_fast_predictor_costs_nothing() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 1e-6, 0.0))
    scene.job("a", predicted_tokens=32)
    scene.run()
    response = scene.response("a")
    assert response.plan.predicted_tokens == 32
    assert response.timing.predict == pytest.approx(0.001)
    assert response.timing.total == pytest.approx(0.020)


def test_a_slow_predictor_reads_less_so_that_prefill_hides_it() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 4e-5, 0.0))
    scene.job("a", predicted_tokens=32)
    scene.run()
    assert scene.response("a").plan.predicted_tokens == 32
    assert scene.response("a").timing.predict == pytest.approx(0.010)
    assert scene.response("a").timing.total == pytest.approx(0.020)


def test_the_predictor_s_excess_is_waited_for_and_counts() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.030))
    scene.job("a", predicted_tokens=32)
    scene.run()
    response = scene.response("a")
    assert response.plan.predicted_tokens == 32
    assert response.timing.total == pytest.approx(0.040)
    assert response.plan.predicted_time == pytest.approx(0.030 + 0.031)


def test_a_prediction_that_does_not_come_in_time_plans_for_n_max() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.500), predictor_grace=0.005)
    scene.job("a", max_tokens=60)
    scene.run()
    plan = scene.response("a").plan
    assert (plan.predicted_tokens, plan.planned_tokens) == (0, 60)
    assert scene.response("a").timing.total == pytest.approx(0.025)


def test_waiting_for_a_prediction_leaves_half_of_the_time_for_the_answer() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 10.0), predictor_grace=1.0)
    scene.job("a", budget_ms=50)
    # 10 ms prefill, half of the 40 ms that are left, 10 ms decoding.
    assert scene.story() == [("a", "response", 40.0)]


def test_without_a_predictor_the_plan_is_for_n_max() -> None:
    scene = Scene()
    scene.job("a", max_tokens=100)
    scene.run()
    assert scene.response("a").plan.planned_tokens == 100


def test_a_one_token_answer_waits_for_no_prediction_and_evicts_nothing() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.040), planner=FixedPlanner(alpha=0.5))
    scene.job("a", response_tokens=1)
    scene.run()
    assert scene.response("a").timing.total == pytest.approx(0.010)
    assert scene.response("a").timing.evict == 0.0


def test_the_plan_counts_from_the_time_that_is_really_left() -> None:
    scene = Scene(time_model=GROWING, planner=TimeBillPlanner(pessimism=1.0))
    scene.job("blocks", response_tokens=51, max_tokens=51)
    # Waits 152 ms behind the first; the same budget on an idle server would evict nothing.
    scene.job("waits", release_ms=1, budget_ms=280, response_tokens=51, max_tokens=51)
    scene.job("idle", release_ms=900, budget_ms=280, response_tokens=51, max_tokens=51)
    scene.run()
    waits, idle = scene.response("waits"), scene.response("idle")
    assert idle.plan.alpha == 0.0
    assert 0.0 < waits.plan.alpha < 0.95
    assert waits.plan.feasible
    assert 0.0 <= waits.timing.slack < 0.001
    assert waits.timing.queued + waits.plan.wcet == pytest.approx(waits.timing.total, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.25, 0.9])
def test_eviction_makes_steps_as_cheap_as_the_time_model_says(alpha: float) -> None:
    scene = Scene(time_model=GROWING, planner=FixedPlanner(alpha=alpha))
    scene.job("a", response_tokens=11)
    scene.run()
    kept = round((1 - alpha) * 1000)
    assert scene.response("a").timing.decode == pytest.approx(GROWING.decode(kept, 11), abs=1e-8)
    assert scene.response("a").timing.evict == pytest.approx(0.001)
    assert scene.response("a").plan.kept_tokens == kept


@pytest.mark.parametrize(
    ("settings", "detail"),
    [
        ({"prompt_tokens": 0}, "prompt: it is empty after tokenising"),
        ({"prompt_tokens": 16384}, "prompt: 16384 tokens leave no room"),
        ({"prompt_tokens": 16000, "max_tokens": 385}, "max_tokens: 385 exceed the 384"),
    ],
)
def test_what_exceeds_the_model_is_rejected_with_the_bound(settings: dict, detail: str) -> None:
    scene = Scene()
    scene.job("a", **settings)
    scene.run()
    overrun = scene.overrun("a")
    assert (overrun.reason, overrun.stage) == (Reason.REJECTED, Stage.QUEUED)
    assert overrun.detail.startswith(detail)


def test_the_default_cap_shrinks_to_what_the_context_leaves() -> None:
    scene = Scene(default_max_tokens=400)
    scene.job("a", prompt_tokens=16380, response_tokens=300)
    scene.run()
    assert scene.response("a").response_tokens == 4


def test_a_predictor_that_raises_costs_the_job_its_prediction_and_no_more() -> None:
    class Broken:
        elapsed = 0.0

        def wait(self, timeout: float) -> None:
            raise ValueError("NaN in the logits")

        def cancel(self) -> None:
            """Nothing to withdraw."""

    scene = Scene(predictor_time=Quadratic(0.0, 1e-6, 0.0))
    scene.job("answers that break")
    scene.job("breaks at once", release_ms=100)
    scene.job("fine", release_ms=200)
    predictor = scene.predictor
    assert predictor is not None
    start = predictor.start

    def start_broken(text: str, *args: object) -> object:
        if text == "breaks at once":
            raise RuntimeError("cannot schedule new futures after shutdown")
        return Broken() if text == "answers that break" else start(text, *args)  # type: ignore

    predictor.start = start_broken  # type: ignore[method-assign, assignment]
    assert [what for _, what, _ in scene.story()] == ["response"] * 3
    late = [(r.plan.predicted_tokens, r.plan.planned_tokens) for r in scene.outcomes[:2]]
    assert late == [(0, 400)] * 2, "as where the prediction is late"
    assert [scene.response(job.id).predictor_fault for job in scene.jobs] == [
        "ValueError: NaN in the logits",
        "RuntimeError: cannot schedule new futures after shutdown",
        "",
    ]


def test_a_prediction_is_withdrawn_however_its_job_ends() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.020), **SLOW_PREFILL)
    withdrawn: list[str] = []
    predictor = scene.predictor
    assert predictor is not None
    start = predictor.start

    def start_watched(text: str, *args: object) -> object:
        pending = start(text, *args)  # type: ignore[arg-type]
        object.__setattr__(pending, "cancel", lambda: withdrawn.append(text))
        return pending

    predictor.start = start_watched  # type: ignore[method-assign, assignment]
    scene.job("killed in prefill", budget_ms=5)
    scene.job("answered", release_ms=100)
    scene.run()
    assert withdrawn == ["killed in prefill", "answered"]


def test_a_deadline_that_passes_while_tokenising_ends_the_job_there() -> None:
    scene = Scene()
    scene.job("a", budget_ms=5)
    prepare = scene.engine.prepare

    def slow_prepare(*asked: Any) -> PreparedRequest:
        scene.clock.advance(7_000_000)
        return prepare(*asked)

    scene.engine.prepare = slow_prepare  # type: ignore[method-assign]
    assert scene.story() == [("a", "expired", 7.0)]
    assert scene.overrun("a").stage is Stage.QUEUED


def test_turns_that_the_template_refuses_are_the_instruction_s_fault() -> None:
    scene = Scene()
    scene.job("a")

    def refusing_prepare(*_: object) -> PreparedRequest:
        raise ConversationRefused(ValueError("roles must alternate"))

    scene.engine.prepare = refusing_prepare  # type: ignore[method-assign]
    assert scene.story() == [("a", "rejected", 0.0)]
    assert re.match("messages: .*roles must alternate", scene.overrun("a").detail)


def test_the_predictor_reads_the_rendered_prompt() -> None:
    scene = Scene(predictor_time=Quadratic(0.0, 0.0, 0.0))
    scene.job("a")
    scene.requests["<user>a"] = SimulatedRequest(1000, 11, 160)
    prepare = scene.engine.prepare

    def rendering(*asked: Any) -> PreparedRequest:
        return replace(prepare(*asked), text=f"<user>{asked[0].prompt}")

    scene.engine.prepare = rendering  # type: ignore[method-assign]
    scene.run()
    assert scene.response("a").plan.predicted_tokens == 160


@pytest.mark.parametrize("response_schema", ["", "{}"])
def test_a_schema_s_cost_is_planned_exactly(response_schema: str) -> None:
    model = TimeModel(0.0, 1e-5, 0.0, 1e-6, 1e-3, evict_base=1e-3, q_structured=2e-4)
    free = 10.0 + 1.0 + 19 * (1.0 + 0.5) + 19 * 18 / 2 * 1e-3  # ms, with half of the prompt kept
    held = 20 * 0.2 if response_schema else 0.0
    scene = Scene(time_model=model, planner=TimeBillPlanner())
    budget_ns = round((free + held) * MS)
    job = scene.job("a", response_tokens=20, max_tokens=20, response_schema=response_schema)
    scene.jobs = [replace(job, deadline_ns=budget_ns)]
    scene.run()
    response = scene.response("a")
    assert response.plan.kept_tokens == 500
    assert response.plan.feasible
    assert response.plan.wcet == pytest.approx((free + held) / 1e3, abs=1e-9)
    assert response.timing.total == pytest.approx(response.plan.wcet, abs=1e-8)
    assert response.predicted_prefill == pytest.approx(0.01 + held / 20e3)


def test_a_temperature_s_cost_is_planned_where_the_server_draws_nothing() -> None:
    model = TimeModel(0.0, 1e-5, 0.0, 0.0, 1e-3, q_drawn=2e-4)
    for temperature, step in ((None, 1e-3), (0.0, 1e-3), (0.7, 1.2e-3)):
        scene = Scene(time_model=model)
        own = SamplingOverride(temperature=temperature)
        scene.job("a", response_tokens=20, max_tokens=20, sampling=own)
        scene.run()
        response = scene.response("a")
        assert response.plan.wcet == pytest.approx(0.01 + 19 * step, abs=1e-9)


def test_a_schema_that_is_refused_is_the_instruction_s_fault() -> None:
    scene = Scene()
    scene.job("a", response_schema="{")

    def refuse(
        conversation: Conversation, schema: str, sampling: SamplingOverride
    ) -> PreparedRequest:
        raise SchemaRefused(f"{schema!r} is not JSON")

    scene.engine.prepare = refuse  # type: ignore[method-assign]
    assert scene.story() == [("a", "rejected", 0.0)]
    assert scene.overrun("a").detail == "response_schema: '{' is not JSON"


@pytest.mark.parametrize(
    ("response_schema", "least_complete", "story", "truncated"),
    [
        ("", 1, "response", False),
        ("{}", 1, "response", True),
        ("{}", 8, "response", True),
        ("{}", 9, "failed", None),
    ],
)
def test_an_answer_under_a_schema_is_closed_at_the_cap_or_is_none(
    response_schema: str, least_complete: int, story: str, truncated: bool | None
) -> None:
    scene = Scene()
    scene.job(
        "a",
        response_tokens=50,
        max_tokens=8,
        response_schema=response_schema,
        least_complete=least_complete,
    )
    assert [ending for _, ending, _ in scene.story()] == [story]
    if truncated is None:
        assert scene.overrun("a").detail.startswith("max_tokens: after 8 tokens")
        assert scene.overrun("a").partial_text == "x" * 8
    else:
        assert scene.response("a").finish_reason is FinishReason.LENGTH
        assert scene.response("a").truncated is truncated
