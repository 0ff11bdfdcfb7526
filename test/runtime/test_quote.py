# SPDX-License-Identifier: Apache-2.0
"""What jobs are promised without being run, and which of them are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.planners import Planner, TimeBillPlanner, VanillaPlanner
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.engine_chain import ChainedEngine, EngineChain
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Overrun, Reason, Response
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.quote import Quote, Quotes
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.simulation import (
    SimulatedEngine,
    SimulatedPredictor,
    SimulatedRequest,
    SimulatedSelection,
    VirtualClock,
    simulate,
)

MS = 1_000_000
# Prefill 1 ms per 100 tokens, a step 1 us per cached token: 1000 of them make 1 ms.
TIMES = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-6, q=0.0, predictor=Quadratic(0.0, 0.0, 1e-4))
REQUEST = SimulatedRequest(prompt_tokens=1000, response_tokens=20, predicted_tokens=32)


class World:
    """A simulated engine, and what its jobs are promised."""

    def __init__(
        self,
        planner: Planner,
        *,
        rejects: bool = False,
        times: TimeModel = TIMES,
        request: SimulatedRequest = REQUEST,
    ) -> None:
        self.clock = VirtualClock()
        self.engine = SimulatedEngine(self.clock, times, {"go": request}, window=10)
        self.predictor = SimulatedPredictor(self.clock, times, {"go": request})
        self.parts = ServerParts(
            self.engine, times, self.predictor, self.clock, self.clock, predictor_grace=0.0
        )
        decided = Decisions(planner, OverrunPolicy.KILL, rejects_hopeless=rejects)
        self.decided = decided
        self.quotes = Quotes(EngineChain(self.parts), decided, Preparation(self.engine, 100))

    def job(self, budget_ms: float) -> Job:
        return Job("a", Conversation("", "go"), 0, round(budget_ms * MS))

    def quote(self, budget_ms: float) -> Quote:
        return self.quotes.quote(self.job(budget_ms))


def test_a_quote_runs_nothing() -> None:
    world = World(VanillaPlanner())
    world.quote(1000.0)
    assert world.engine.response_tokens == 0
    assert world.clock.now_ns() <= MS  # the prediction alone


def test_ample_time_is_a_promise() -> None:
    quote = World(VanillaPlanner()).quote(1000.0)
    assert quote.promised
    assert quote.in_time == 1.0
    assert quote.plan.feasible
    assert quote.plan.wcet == pytest.approx(0.01 + TIMES.decode(1000, 100))


def test_of_two_models_the_planners_choice_is_quoted_and_the_cheapest_is_enough() -> None:
    def world(planner: Planner) -> World:
        one = World(planner)
        fast = TIMES.slowed(0.1, 0.1)
        engine = SimulatedEngine(one.clock, fast, {"go": REQUEST}, window=10)
        small = replace(one.parts, engine=engine, time_model=fast, model="small")
        parts = replace(one.parts, model="large", smaller=(small,))
        one.quotes = Quotes(EngineChain(parts), one.decided, Preparation(one.engine, 100, [engine]))
        return one

    expecting = world(ExpectedPlanner())
    assert expecting.quote(1000.0).plan.model == "large"
    tight = expecting.quote(9.0)
    assert tight.plan.model == "small"
    assert tight.promised
    assert expecting.quote(1.0).enough == pytest.approx(tight.enough, rel=0.1)
    assert expecting.quote(1.0).enough < World(ExpectedPlanner()).quote(1.0).enough / 5
    # Who takes the largest whatever comes is told what that needs.
    whole = world(VanillaPlanner())
    assert whole.quote(9.0).enough == pytest.approx(World(VanillaPlanner()).quote(9.0).enough)


class Chained(World):
    """The same, and an engine that takes a tenth of the time, tried where the first cannot."""

    def __init__(self, *, ahead: bool | None = None, rejects: bool = False) -> None:
        super().__init__(VanillaPlanner(), rejects=rejects)
        times = TIMES.slowed(0.1, 0.1)
        engine = SimulatedEngine(self.clock, times, {"go": REQUEST}, window=10)
        parts = replace(self.parts, engine=engine, time_model=times, name="second")
        self.second = ChainedEngine(parts, Preparation(engine, 100))
        self.chain = EngineChain(self.parts, [self.second] if ahead is None else [])
        self.quotes = Quotes(self.chain, self.decided, Preparation(self.engine, 100))
        if ahead is not None:
            self.chain.join(self.second, ahead=ahead)


@pytest.mark.parametrize("ahead", [None, False])
def test_the_first_engine_that_can_promise_an_answer_is_quoted(ahead: bool | None) -> None:
    world, alone = Chained(ahead=ahead), World(VanillaPlanner())
    assert world.quote(1000.0).predicted_prefill == pytest.approx(0.01)
    tight = world.quote(20.0)
    assert not alone.quote(20.0).promised
    assert tight.promised
    assert tight.predicted_prefill == pytest.approx(0.001)
    assert world.quote(1.0).enough == pytest.approx(tight.enough)


def test_an_engine_that_joined_ahead_is_quoted_first() -> None:
    assert Chained(ahead=True).quote(1000.0).predicted_prefill == pytest.approx(0.001)


def test_what_another_engine_can_promise_is_not_rejected() -> None:
    world = Chained(rejects=True)
    assert world.quotes(world.job(20.0)).request.prompt_tokens == 1000
    with pytest.raises(JobStopped, match="would have been enough"):
        world.quotes(world.job(1.0))


def test_an_engine_that_is_left_alone_is_not_quoted() -> None:
    world = Chained()
    for _ in range(2):
        world.chain.usable()[0].breaker.tell(failed=True)
    assert world.quote(1000.0).predicted_prefill == pytest.approx(0.001)


def test_no_time_is_none() -> None:
    quote = World(VanillaPlanner()).quote(5.0)
    assert not quote.promised
    assert quote.in_time == 0.0
    assert quote.enough > 0.01


def test_between_them_the_length_decides() -> None:
    world = World(VanillaPlanner())
    chances = [world.quote(budget).in_time for budget in (20.0, 30.0, 40.0, 60.0)]
    assert chances == sorted(chances)
    assert 0.0 <= chances[0] < chances[-1] <= 1.0


@pytest.mark.parametrize(
    "planner", [VanillaPlanner(), TimeBillPlanner(), ExpectedPlanner(), ExpectedPlanner(risk=0.1)]
)
def test_what_is_enough_is_enough(planner: Planner) -> None:
    world = World(planner)
    enough = world.quote(1.0).enough
    assert world.quote(enough * 1e3 + 1.0).promised
    assert not world.quote(enough * 1e3 - 1.0).promised


def test_the_cheapest_plan_evicts_where_that_is_cheaper() -> None:
    whole, evicting = World(VanillaPlanner()), World(TimeBillPlanner(alpha_max=0.9))
    assert evicting.quote(1.0).enough < whole.quote(1.0).enough
    dear = replace(TIMES, evict_base=1.0)
    never = World(TimeBillPlanner(alpha_max=0.9), times=dear)
    assert never.quote(1.0).enough == pytest.approx(whole.quote(1.0).enough)


def test_what_an_earlier_prompt_left_needs_no_time() -> None:
    shared = replace(REQUEST, shared_tokens=800)
    usual, less = World(VanillaPlanner()), World(VanillaPlanner(), request=shared)
    assert less.quote(1.0).enough == pytest.approx(usual.quote(1.0).enough - 0.008)
    assert less.quote(1000.0).predicted_prefill == pytest.approx(0.002)


def test_the_time_that_selecting_takes_is_needed() -> None:
    def enough(rank: float) -> float:
        world = World(ExpectedPlanner(), times=replace(TIMES, rank=rank, render=1e-6))
        selection = SimulatedSelection({}, 10, (1.0, 0.5), world.clock, TIMES)
        parts = replace(world.parts, selection=selection)
        return (
            Quotes(EngineChain(parts), world.decided, Preparation(world.engine, 100))
            .quote(world.job(1.0))
            .enough
        )

    assert enough(1e-6) == pytest.approx(enough(0.0) + 1e-3)
    assert enough(1.0) == pytest.approx(World(ExpectedPlanner()).quote(1.0).enough)


def test_a_smaller_risk_asks_for_more_time() -> None:
    times = [World(ExpectedPlanner(risk=risk)).quote(1.0).enough for risk in (0.3, 0.05)]
    assert times[0] <= times[1]


def test_a_slow_machine_is_quoted_as_it_is() -> None:
    usual, slow = World(VanillaPlanner()), World(VanillaPlanner())
    for _ in range(100):
        slow.parts.pace.observe(2.0, 1.0)
    slow.quotes.decide(replace(slow.decided, time_risk=0.1))
    assert slow.quote(1.0).enough > usual.quote(1.0).enough


def test_a_slow_predictor_is_left_to_what_runs() -> None:
    slow = replace(TIMES, predictor=Quadratic(0.0, 0.0, 0.5))
    world = World(VanillaPlanner(), times=slow)
    world.quote(1000.0)
    assert world.clock.now_ns() == 0


def test_a_predictor_that_fails_costs_a_quote_nothing_else() -> None:
    world = World(VanillaPlanner())
    world.predictor.start = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError):
        world.predictor.start("go", [0], 1)
    assert world.quote(1000.0).promised


def outcomes(world: World, budget_ms: float) -> list[Response | Overrun]:
    found: list[Response | Overrun] = []
    server = Server(
        world.parts, world.decided, prepare=world.quotes, queue_capacity=4, emit=found.append
    )
    simulate(server, world.clock, [world.job(budget_ms)])
    return found


def test_admission_rejects_what_cannot_be_met_and_tells_what_would_be_enough() -> None:
    world = World(VanillaPlanner(), rejects=True)
    (overrun,) = outcomes(world, 12.0)
    assert isinstance(overrun, Overrun)
    assert overrun.reason is Reason.REJECTED
    assert "budget: 0.012 s are left, and the cheapest plan" in overrun.detail
    told = float(overrun.detail.split(" s would have been enough")[0].split()[-1])
    (response,) = outcomes(World(VanillaPlanner(), rejects=True), told * 1e3 + 1.0)
    assert isinstance(response, Response)


def test_best_effort_tries_it() -> None:
    (outcome,) = outcomes(World(VanillaPlanner()), 12.0)
    assert isinstance(outcome, Overrun)
    assert outcome.reason is Reason.KILLED


def test_what_cannot_be_prepared_has_no_quote() -> None:
    world = World(VanillaPlanner())
    job = replace(world.job(10.0), max_tokens=10**6)
    with pytest.raises(JobStopped, match="max_tokens"):
        world.quotes.quote(job)
