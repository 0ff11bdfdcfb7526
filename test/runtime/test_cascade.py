# SPDX-License-Identifier: Apache-2.0
"""One of several models for each job, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import Planner, TimeBillPlanner, VanillaPlanner
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import Quadratic
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.simulation import (
    SimulatedPrediction,
    SimulatedPredictor,
    SimulatedRequest,
)

from .simulated import FLAT, Scene, SmallerModel

# A fifth of the times: 1,000 prompt tokens take 2 ms, a step 0.2 ms.
FAST = FLAT.slowed(0.2, 0.2)


def worth(score: float) -> LeverQuality:
    """A model that scores so, and loses all of it with what is dropped."""
    curve = QualityCurve((QualityPoint(0.0, score, 1.0, 0.0), QualityPoint(1.0, 0.0, 1.0, 0.0)))
    return LeverQuality(curve, curve, measured=True)


def cascade(*, small: float = 80.0, planner: Planner | None = None, **others: object) -> Scene:
    return Scene(
        planner=planner or ExpectedPlanner(),
        quality=worth(95.0),
        smaller=(SmallerModel("small", FAST, worth(small)),),
        **others,  # type: ignore[arg-type]
    )


def certain(tokens: int) -> LengthDistribution:
    return LengthDistribution(np.eye(tokens)[-1], 1)


def ask(run: Scene, budget_ms: int, **fields: object) -> Outcome:
    """10,000 tokens, 100 or 20 ms of prefill; 16 response tokens, 15 or 3 ms."""
    known = {"prompt_tokens": 10_000, "response_tokens": 16, "lengths": certain(16)}
    run.job("a", budget_ms=budget_ms, **(known | fields))  # type: ignore[arg-type]
    (outcome,) = run.run()
    return outcome


@pytest.mark.parametrize(
    ("budget_ms", "model"), [(600, "largest"), (120, "largest"), (110, "small"), (30, "small")]
)
def test_the_largest_model_that_is_in_time_answers(budget_ms: int, model: str) -> None:
    response = ask(cascade(predictor_time=Quadratic(0.0, 0.0, 1e-4)), budget_ms)
    assert isinstance(response, Response)
    assert response.plan.model == model
    assert response.plan.score == {"largest": 95.0, "small": 80.0}[model]
    assert response.predicted_prefill == pytest.approx(0.1 if model == "largest" else 0.02)
    assert response.timing.prefill == pytest.approx(response.predicted_prefill, abs=2e-4)
    assert response.timing.slack >= 0.0


def test_what_no_model_can_do_is_told_by_the_fastest() -> None:
    run = cascade(predictor_time=Quadratic(0.0, 0.0, 1e-4))
    overrun = ask(run, 15)
    assert isinstance(overrun, Overrun)
    assert overrun.reason is Reason.EXPIRED
    assert "10000 tokens alone is predicted to take 0.020 s" in overrun.detail


def test_a_model_without_worth_is_not_asked() -> None:
    overrun = ask(cascade(small=0.0), 110)
    assert overrun.plan is None or overrun.plan.model == "largest"


@pytest.mark.parametrize("planner", [VanillaPlanner(), TimeBillPlanner()])
def test_other_planners_ask_the_largest(planner: Planner) -> None:
    response = ask(cascade(planner=planner), 500)
    assert isinstance(response, Response)
    assert response.plan.model == "largest"
    assert isinstance(ask(cascade(planner=planner), 60), Overrun)


def test_a_prompt_too_long_for_one_model_is_the_other_ones() -> None:
    short = replace(SmallerModel("small", FAST, worth(99.0)), max_context=5000)
    run = Scene(planner=ExpectedPlanner(), quality=worth(95.0), smaller=(short,))
    response = ask(run, 600)
    assert isinstance(response, Response)
    assert response.plan.model == "largest"
    response = ask(cascade(max_context=5000), 600)
    assert isinstance(response, Response)
    assert response.plan.model == "small"
    refused = ask(
        Scene(planner=ExpectedPlanner(), quality=worth(95.0), smaller=(short,), max_context=6000),
        600,
    )
    assert isinstance(refused, Overrun)
    assert refused.reason is Reason.REJECTED
    assert "context of 6000" in refused.detail  # the largest model's


@pytest.mark.parametrize("broken", [0, 1])
def test_a_model_that_breaks_while_it_prepares_a_job_leaves_it_to_the_other(broken: int) -> None:
    run = cascade()

    def break_down(*_: object) -> None:
        raise MemoryError("no room")

    (run.engine, *run.smaller_engines)[broken].prepare = break_down  # type: ignore[method-assign]
    run.job("a", budget_ms=10_000)
    run.run()
    assert run.response("a").plan.model == ("small" if broken == 0 else "largest")


def test_each_model_has_its_own_tokens() -> None:
    reads = {"a": SimulatedRequest(12_000, 40, 16, lengths=certain(16))}
    run = Scene(
        planner=ExpectedPlanner(),
        quality=worth(95.0),
        smaller=(SmallerModel("small", FAST, worth(80.0), reads=reads),),
    )
    response = ask(run, 90)
    assert isinstance(response, Response)
    assert response.plan.prompt_tokens == 12_000
    assert response.response_tokens == 40


def test_models_share_one_prediction_of_a_predictor_that_they_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []
    started = SimulatedPredictor.start

    def counting(self: SimulatedPredictor, *given: object) -> SimulatedPrediction:
        counted.append(1)
        return started(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedPredictor, "start", counting)
    response = ask(cascade(predictor_time=Quadratic(0.0, 0.0, 1e-4)), 110)
    assert isinstance(response, Response)
    assert response.plan.predicted_tokens == 16
    assert counted == [1]


@dataclass
class Halving:
    """Names the prompt of each share, as the simulated engine knows prompts by name."""

    ranked: list[str] = field(default_factory=list)
    least_share: float = 0.0

    @property
    def shares(self) -> Sequence[float]:
        return (1.0, 0.5)

    def rank(self, conversation: Conversation, prompt_tokens: int) -> Halving:
        self.ranked.append(conversation.prompt)
        return self

    def select(self, share: float) -> Conversation:
        return Conversation("", f"{self.ranked[-1]}@{share:g}")


@pytest.mark.parametrize(
    ("small", "model", "rho"), [(80.0, "small", 1.0), (40.0, "largest", 0.5), (0.0, "largest", 0.5)]
)
def test_the_levers_are_weighed_against_each_other(small: float, model: str, rho: float) -> None:
    """In 80 ms the largest model answers half of the prompt, at half of its 95."""
    run = cascade(small=small, selection=Halving(), predictor_time=Quadratic(0.0, 0.0, 1e-4))
    run.requests["a@0.5"] = SimulatedRequest(5000, 16, 16)
    response = ask(run, 80)
    assert isinstance(response, Response)
    assert (response.plan.model, response.plan.rho) == (model, rho)
    assert isinstance(run.selection, Halving)
    assert run.selection.ranked == ["a"]  # once for both models


def test_ample_time_looks_at_nothing() -> None:
    run = cascade(selection=Halving(), predictor_time=Quadratic(0.0, 0.0, 1e-4))
    ask(run, 600)
    assert isinstance(run.selection, Halving)
    assert run.selection.ranked == []


JOBS = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(1, 700), st.integers(1, 12_000), st.integers(1, 400)
    ),
    min_size=1,
    max_size=8,
)


def end(run: Scene, jobs: Sequence[tuple[int, int, int, int]]) -> list[Outcome]:
    for number, (release, budget, prompt, response) in enumerate(jobs):
        run.job(
            f"j{number}",
            release_ms=release,
            budget_ms=budget,
            prompt_tokens=prompt,
            response_tokens=response,
            lengths=LengthDistribution(np.full(8, 0.125), 50),
        )
    return run.run()


@settings(deadline=None, max_examples=40)
@given(JOBS, st.sampled_from(list(OverrunPolicy)))
def test_a_model_of_no_worth_changes_no_plan(
    jobs: list[tuple[int, int, int, int]], policy: OverrunPolicy
) -> None:
    """Where the largest has a chance; else whoever is fastest tells that there is none."""
    timed = {"predictor_time": Quadratic(0.0, 0.0, 1e-4), "policy": policy}
    alone = end(Scene(planner=ExpectedPlanner(), quality=worth(95.0), **timed), jobs)  # type: ignore[arg-type]
    slow = SmallerModel("slow", FLAT.slowed(50.0, 50.0), worth(0.0))
    beside = end(
        Scene(planner=ExpectedPlanner(), quality=worth(95.0), smaller=(slow,), **timed),  # type: ignore[arg-type]
        jobs,
    )
    plans = {o.job.id: o.plan for o in alone if o.plan is not None and o.plan.expected_score}
    same = {o.job.id: o.plan for o in beside if o.plan is not None and o.plan.expected_score}
    if len(alone) == len(jobs) and all(isinstance(o, Response) for o in alone):
        assert same == plans


@settings(deadline=None, max_examples=40)
@given(JOBS, st.sampled_from(list(OverrunPolicy)), st.floats(0.0, 100.0))
def test_every_job_ends_once_whichever_model_it_is_given(
    jobs: list[tuple[int, int, int, int]], policy: OverrunPolicy, small: float
) -> None:
    run = cascade(small=small, policy=policy, predictor_time=Quadratic(0.0, 0.0, 1e-4))
    ended = [
        outcome.job.id
        for outcome in end(run, jobs)
        if isinstance(outcome, Response) or outcome.terminal
    ]
    assert sorted(ended) == sorted(f"j{number}" for number in range(len(jobs)))


def test_the_cascade_loses_nothing_against_the_largest_alone() -> None:
    """Over budgets from hopeless to ample, by the score that is measured where it is in time.

    But for the 0.1 ms of the prediction, which is waited for to choose by.
    """
    timed = {"predictor_time": Quadratic(0.0, 0.0, 1e-4)}
    for budget in range(7, 200, 5):
        both = ask(cascade(**timed), budget)
        alone = ask(Scene(planner=ExpectedPlanner(), quality=worth(95.0), **timed), budget)  # type: ignore[arg-type]
        assert _score(both) >= _score(alone)


def _score(outcome: Outcome) -> float:
    return (outcome.plan.score or 0.0) if isinstance(outcome, Response) else 0.0
