# SPDX-License-Identifier: Apache-2.0
"""Budgets that bring about what they aim at: the whole run in virtual time, slow and fast."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from timebill_ros.budget.expected import SHARES, ExpectedPlanner
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.cli.scenario import (
    HEAD_START,
    Aim,
    Look,
    Request,
    draw_tasks,
    plan_run,
)
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response
from timebill_ros.runtime.pace_tracker import Slowdown
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
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

GENTLE = QualityCurve((QualityPoint(0.0, 99.0, 0.5, 0.0), QualityPoint(0.94, 88.0, 2.0, 0.0)))
_ALWAYS = 16  # prompt tokens that selection keeps whatever is asked for

DESKTOP = TimeModel(
    a=1.1e-8,
    b=1e-5,
    c=2e-3,
    p=6e-8,
    q=2.3e-4,
    evict_rate=8e-7,
    evict_base=2e-4,
    predictor=Quadratic(0.0, 1e-6, 5e-4),
)
MACHINES = {
    "accelerator": TimeModel(a=1e-10, b=2e-6, c=3e-3, p=2e-8, q=5e-4),
    "desktop": DESKTOP,
    "board": TimeModel(a=2.6e-8, b=7e-5, c=2.4e-2, p=1e-6, q=1.8e-3, evict_rate=4e-6),
    "slow board": TimeModel(a=2.6e-7, b=7e-4, c=0.1, p=1e-5, q=2e-2, evict_rate=4e-5),
}


class VirtualNode:
    """Answers the demo's tasks as the references say, in the time that a time model says."""

    def __init__(self, believed: TimeModel, real: TimeModel, policy: OverrunPolicy) -> None:
        self.tasks = draw_tasks(0)
        self.outcomes: dict[str, Outcome] = {}
        self.reasons: list[Reason] = []
        self._clock = VirtualClock()
        self._requests: dict[str, SimulatedRequest] = {}
        parts = ServerParts(
            engine=SimulatedEngine(self._clock, real, self._requests),
            time_model=believed,
            predictor=SimulatedPredictor(self._clock, believed, self._requests),
            clock=self._clock,
            stopwatch=self._clock,
            predictor_grace=0.05,
            slowdown=Slowdown(),
            quality=LeverQuality(GENTLE, GENTLE, measured=True),
            selection=SimulatedSelection(self._requests, _ALWAYS, SHARES, self._clock, real),
        )
        self._server = Server(
            parts,
            Decisions(ExpectedPlanner(), policy),
            prepare=Preparation(parts.engine, 400),
            queue_capacity=16,
            emit=self._emit,
        )

    def looks(self) -> list[Look]:
        looks = []
        for task in range(len(self.tasks)):
            (outcome,) = self.run([Request(f"look{task}", task, Aim.COMFORTABLE, 600.0)])
            assert isinstance(outcome, Response)
            timing, plan = outcome.timing, outcome.plan
            spent = timing.total - timing.queued - timing.evict - timing.decode
            looks.append(Look(plan.prompt_tokens, spent, timing.decode, plan.wcet))
        return looks

    def run(self, group: list[Request]) -> list[Outcome]:
        jobs = []
        for position, request in enumerate(group):
            task = self.tasks[request.task]
            edge = -(-task.reference_tokens // 16) * 16
            self._requests[request.id] = SimulatedRequest(
                task.prompt_tokens, task.reference_tokens, edge
            )
            head_start = HEAD_START if position else 0.0
            release_ns = self._clock.now_ns() + round(head_start * NS_PER_S)
            deadline_ns = release_ns + round(request.budget * NS_PER_S)
            jobs.append(Job(request.id, Conversation("", request.id), release_ns, deadline_ns))
        simulate(self._server, self._clock, jobs)
        return [self.outcomes[request.id] for request in group]

    def _emit(self, outcome: Outcome) -> None:
        if isinstance(outcome, Overrun):
            self.reasons.append(outcome.reason)
        self.outcomes[outcome.job.id] = outcome


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> TimeModel:
    return MACHINES[request.param]


def gave_up(outcome: Outcome) -> bool:
    assert isinstance(outcome, Response)
    return outcome.plan.rho < 1.0 or outcome.plan.alpha > 0.0


def test_tasks_are_many_short_and_long() -> None:
    tasks = draw_tasks(0)
    assert len({task.instruction for task in tasks}) == len(tasks)
    prompts = sorted(task.prompt_tokens for task in tasks)
    assert 180 <= prompts[0] <= 200
    assert 3950 <= prompts[-1] <= 4000
    answers = sorted(task.reference_tokens for task in tasks)
    assert answers[0] < 10
    assert answers[-1] > 300
    assert [task.system for task in draw_tasks(1)] != [task.system for task in tasks]


def test_every_budget_brings_about_its_aim(machine: TimeModel) -> None:
    node = VirtualNode(machine, machine, OverrunPolicy.KILL)
    groups = plan_run(node.looks())
    requests = [request for group in groups for request in group]
    assert len(requests) >= 12
    assert len({request.id for request in requests}) == len(requests)
    outcomes: dict[Aim, list[Outcome]] = {aim: [] for aim in Aim}
    for group in groups[:-1]:
        (request,), (outcome,) = group, node.run(group)
        outcomes[request.aim].append(outcome)
    assert not any(gave_up(outcome) for outcome in outcomes[Aim.COMFORTABLE])
    assert all(isinstance(outcome, Overrun) for outcome in outcomes[Aim.HOPELESS])
    # The tightest leaves no room for what a planner cannot know, above all the answer's length.
    *tight, _ = outcomes[Aim.TIGHT]
    assert all(gave_up(outcome) for outcome in tight)


def test_those_sent_together_wait_for_each_other_in_vain_or_not(machine: TimeModel) -> None:
    node = VirtualNode(machine, machine, OverrunPolicy.KILL)
    group = plan_run(node.looks())[-1]
    assert len(group) >= 6
    first, *middle, last = node.run(group)
    assert isinstance(first, Overrun)
    assert isinstance(last, Overrun)
    assert (first.reason, last.reason) == (Reason.KILLED, Reason.EXPIRED)
    for request, outcome in zip(group[1:-1], middle, strict=True):
        assert gave_up(outcome) == (request.aim is Aim.TIGHT)
        assert outcome.timing.queued > 0.0


@pytest.mark.parametrize("error", [0.5, 0.8, 1.25, 2.0])
def test_all_kinds_occur_though_the_time_model_errs(machine: TimeModel, error: float) -> None:
    scaled = {name: value * error for name, value in vars(machine).items() if name != "predictor"}
    node = VirtualNode(machine, replace(machine, **scaled), OverrunPolicy.KILL)
    outcomes = [outcome for group in plan_run(node.looks()) for outcome in node.run(group)]
    assert {gave_up(outcome) for outcome in outcomes if isinstance(outcome, Response)} == {
        False,
        True,
    }
    assert any(isinstance(outcome, Overrun) for outcome in outcomes)


def test_under_skip_next_a_late_one_skips_those_behind_it() -> None:
    node = VirtualNode(DESKTOP, DESKTOP, OverrunPolicy.SKIP_NEXT)
    for group in plan_run(node.looks()):
        node.run(group)
    counts = Counter(node.reasons)
    assert counts[Reason.LATE] >= 2
    assert counts[Reason.SKIPPED] >= 4
    assert counts[Reason.KILLED] == 0
