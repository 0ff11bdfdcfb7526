# SPDX-License-Identifier: Apache-2.0
"""Prompts that are shortened before prefill, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import Quadratic
from timebill_ros.engine.request import Conversation, Turn
from timebill_ros.runtime.outcome import Response
from timebill_ros.runtime.prompt_selection import ConversationSelection
from timebill_ros.runtime.simulation import SimulatedRequest
from timebill_ros.selection.methods import Lexical
from timebill_ros.selection.selector import Selector

from .simulated import FLAT, MS, Scene

CURVE = QualityCurve((QualityPoint(0.0, 100.0, 1.0, 0.0), QualityPoint(1.0, 50.0, 1.0, 0.0)))
QUALITY = LeverQuality(CURVE, CURVE, measured=True)


@dataclass
class Halving:
    """Names the prompt of each share, as the simulated engine knows prompts by name."""

    least_share: float = 0.0
    ranked: list[str] = field(default_factory=list)
    spend: Callable[[], None] = lambda: None

    @property
    def shares(self) -> Sequence[float]:
        return (1.0, 0.5, 0.25)

    def rank(self, conversation: Conversation, prompt_tokens: int) -> Halving:
        self.ranked.append(conversation.prompt)
        self.spend()
        return self

    def select(self, share: float) -> Conversation:
        return Conversation("", f"{self.ranked[-1]}@{share:g}")


def scene(selection: Halving, **settings: object) -> Scene:
    """1,000 prompt tokens take 10 ms, a step 1 ms; the predictor takes 1 ms."""
    defaults = {
        "planner": ExpectedPlanner(),
        "quality": QUALITY,
        "predictor_time": Quadratic(0.0, 0.0, 1e-3),
    }
    return Scene(selection=selection, **(defaults | settings))  # type: ignore[arg-type]


def ask(run: Scene, budget_ms: int, prompt_tokens: int = 10_000, likely: float = 1.0) -> Response:
    """16 tokens, as is ``likely``; or else 32."""
    lengths = LengthDistribution(np.array([likely, 1.0 - likely]), 16)
    run.job(
        "a",
        budget_ms=budget_ms,
        prompt_tokens=prompt_tokens,
        response_tokens=16,
        lengths=lengths,
    )
    for share in (0.5, 0.25):
        run.requests[f"a@{share:g}"] = SimulatedRequest(round(share * prompt_tokens), 16, 16)
    run.run()
    return run.response("a")


@pytest.mark.parametrize(("budget_ms", "rho"), [(600, 1.0), (118, 1.0), (80, 0.5), (45, 0.25)])
def test_as_much_of_the_prompt_stays_as_fits(budget_ms: int, rho: float) -> None:
    response = ask(scene(Halving()), budget_ms)
    assert response.plan.rho == rho
    assert response.plan.prompt_tokens == round(rho * 10_000)
    assert response.plan.expected_score == pytest.approx(100.0 - 50.0 * (1.0 - rho))
    assert response.predicted_prefill == pytest.approx(rho * 0.1)
    assert response.timing.slack >= 0.0


def test_a_prompt_that_fits_whatever_comes_is_not_looked_at() -> None:
    selection = Halving()
    ask(scene(selection), budget_ms=100 + 400)
    assert selection.ranked == []


def test_planners_of_the_paper_leave_prompts_whole() -> None:
    selection = Halving()
    run = scene(selection, planner=TimeBillPlanner())
    run.job("a", budget_ms=80, prompt_tokens=10_000)
    run.run()
    assert selection.ranked == []
    assert run.overrun("a").plan is None


@pytest.mark.parametrize(("ranking_ms", "ranked", "rho"), [(0, ["a"], 0.5), (80, [], 1.0)])
def test_a_slow_selection_is_not_begun(ranking_ms: int, ranked: list[str], rho: float) -> None:
    """Of 118 ms the whole prompt leaves time for 18 tokens; 16 suffice with 60 %."""
    selection = Halving()
    run = scene(selection, time_model=replace(FLAT, rank=ranking_ms * 1e-3 / 10_000))
    selection.spend = lambda: run.clock.advance(ranking_ms * MS)
    response = ask(run, 118, likely=0.6)
    assert (selection.ranked, response.plan.rho) == (ranked, rho)


def test_time_spent_on_ranking_is_not_counted_twice() -> None:
    """Half of the prompt takes 50 ms and its answer 16, which 24 ms of ranking leave time for."""
    selection = Halving()
    run = scene(selection, time_model=replace(FLAT, rank=24e-7))
    selection.spend = lambda: run.clock.advance(24 * MS)
    assert ask(run, 95).plan.rho == 0.5


def test_tokenising_what_stays_counts() -> None:
    """95 ms: half of the prompt takes 66 with its answer, and 40 to tokenise."""
    run = scene(Halving(), time_model=replace(FLAT, render=8e-6))
    assert ask(run, 95).plan.rho == 0.25


def test_less_than_what_always_stays_is_not_tried() -> None:
    run = scene(Halving(least_share=0.5))
    response = ask(run, 75)
    assert response.plan.rho == 0.5


def ask_after_answers_of_16(
    run: Scene, budget_ms: int, tokens: int, lengths: LengthDistribution | None = None
) -> None:
    """A job with an answer of ``tokens``, after forty whose answers had 16 tokens each."""
    for i in range(40):
        run.job(f"w{i}", release_ms=i * 1000, prompt_tokens=100, response_tokens=16)
    run.job(
        "a",
        release_ms=100_000,
        budget_ms=budget_ms,
        prompt_tokens=10_000,
        response_tokens=tokens,
        lengths=lengths,
    )
    for share in (0.5, 0.25):
        run.requests[f"a@{share:g}"] = SimulatedRequest(round(share * 10_000), tokens, tokens)


def test_without_a_predictor_recent_lengths_decide() -> None:
    run = scene(Halving(), predictor_time=None)
    ask_after_answers_of_16(run, 118, 16)
    run.run()
    assert run.response("a").plan.rho == 1.0


@pytest.mark.parametrize(("predictor_ms", "rho"), [(1, 0.5), (7, 0.5), (8, 1.0)])
def test_an_answer_longer_than_recent_ones_is_predicted_before_prefill(
    predictor_ms: int, rho: float
) -> None:
    """16 tokens, as recent answers had, end in time after the whole prompt; 32 do not.

    The least share saves 75 ms of prefill: a tenth of that may go into waiting.
    """
    run = scene(Halving(), predictor_time=Quadratic(0.0, 0.0, predictor_ms * 1e-3))
    ask_after_answers_of_16(run, 120, 32, lengths=LengthDistribution(np.array([0.0, 1.0]), 16))
    outcome = next(each for each in run.run() if each.job.id == "a")
    assert outcome.plan is not None
    assert outcome.plan.rho == rho
    assert isinstance(outcome, Response) == (rho < 1.0)


def test_nothing_is_waited_for_where_the_longest_answer_is_in_time() -> None:
    run = scene(Halving(), predictor_time=Quadratic(0.0, 0.0, 5e-3))
    assert ask(run, budget_ms=100 + 400).timing.total == pytest.approx(0.1 + 0.015)


def test_a_conversation_keeps_its_turns_and_roles() -> None:
    scene_text = "".join(f"o{i} s{i} car d4 v5 h6 l7 ; " for i in range(50))
    turns = (Turn("user", "What is there?"), Turn("assistant", scene_text))
    talk = Conversation("Drive well.", "report o17 please", turns)
    selection = ConversationSelection(Selector(Lexical(), 16, 2), 0.1)
    selected = selection.rank(talk, 420).select(0.1)
    assert (selected.system, selected.prompt) == (talk.system, talk.prompt)
    assert [turn.role for turn in selected.turns] == ["user", "assistant"]
    assert "o17 s17 car" in selected.turns[1].content
    assert len(selected.turns[1].content) < 0.2 * len(scene_text)
    assert selection.shares == (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)


def test_a_prompt_that_an_earlier_one_shares_stays_whole() -> None:
    run = scene(Halving())
    lengths = LengthDistribution(np.array([1.0, 0.0]), 16)
    run.job(
        "a",
        budget_ms=45,
        prompt_tokens=10_000,
        response_tokens=16,
        lengths=lengths,
        shared_tokens=8_000,
    )
    run.run()
    response = run.response("a")
    assert (response.plan.rho, response.plan.reused_tokens) == (1.0, 8_000)
    assert response.predicted_prefill == pytest.approx(0.02)
    assert response.timing.prefill == pytest.approx(0.02)
