# SPDX-License-Identifier: Apache-2.0
"""What becomes of every case under one method, one budget and one policy, in virtual time.

The scheduler, the planner and the deadlines are the node's own; the engine takes the time that the
time model says, and answers what the model really answered after the same levers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.cases import Case
from timebill_ros.bench.grounds import Ground
from timebill_ros.bench.methods import Known, PlanningMethod
from timebill_ros.bench.predicted import SimulatedStatePredictor
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Response
from timebill_ros.runtime.policy import OverrunPolicy, decisions
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.settings import Settings
from timebill_ros.runtime.simulation import (
    SimulatedEngine,
    SimulatedPredictor,
    SimulatedRequest,
    VirtualClock,
    certain_length,
    simulate,
)

_NO_LIMIT = 2**31
_SMALLER = "smaller"  # the second model, in rows
# s; virtual time is whole nanoseconds, rounded step by step.
_ROUNDING = 1e-6
IN_TIME = ("in time", "truncated")
"""Outcomes of which there is an answer by the deadline."""


@dataclass(frozen=True)
class Row:
    """What became of one case. Times in s; ``score`` is 0 where no answer came in time.

    ``outcome`` is "in time", "truncated" where the deadline cut what came in time, "late", or the
    reason why there is no answer.
    """

    policy: str
    budget: float
    method: str
    case: str
    outcome: str = "killed"
    score: float = 0.0
    total: float = 0.0
    given_tokens: int = 0
    prompt_tokens: int = 0
    kept_tokens: int = 0
    rho: float = 1.0
    alpha: float = 0.0
    predicted_tokens: int = 0
    planned_tokens: int = 0
    response_tokens: int = 0
    feasible: bool = False
    risk: float = -1.0
    expected_score: float = -1.0
    wcet: float = 0.0
    model: str = ""


def run(ground: Ground, name: str, method: PlanningMethod, budget: float, policy: str) -> list[Row]:
    """Every case in turn, each with ``budget`` s from its arrival to its deadline."""
    if method.known is Known.ALL:
        best = partial(_best, ground, method.selects)
        return [best(Row(policy, budget, name, case.case), case) for case in ground.cases]
    clock = VirtualClock()
    settings = replace(ground.settings, overrun_policy=policy, **method.settings)
    decided = decisions(settings)
    grounds = [ground, *([ground.smaller] if method.cascades and ground.smaller else [])]
    parts = _parts(grounds, method, settings, clock)
    ended: dict[str, Outcome] = {}
    server = Server(
        parts,
        decided,
        prepare=Preparation(
            parts.engine, settings.max_tokens, [each.engine for each in parts.smaller]
        ),
        queue_capacity=len(ground.cases) if ground.arrivals else 1,
        emit=partial(_keep, ended),
    )
    period = round(budget * NS_PER_S)
    jobs = (
        Job(
            *(case.case, Conversation("", case.case), release, release + period),
            max_tokens=case.max_tokens or None,
        )
        for release, case in zip(ground.releases(budget), ground.cases, strict=True)
    )
    simulate(server, clock, jobs)
    answered = [{case.case: case for case in each.cases} for each in grounds]
    rows = []
    for case in ground.cases:
        outcome = ended[case.case]
        chosen = outcome.plan is not None and outcome.plan.model == _SMALLER
        own = answered[1 if chosen else 0][case.case]
        rows.append(_filled(Row(policy, budget, name, case.case), ground, own, outcome))
    return rows


def _parts(
    grounds: Sequence[Ground], method: PlanningMethod, settings: Settings, clock: VirtualClock
) -> ServerParts:
    """What jobs meet: the models of these grounds, which share ranked prompts and predictions."""
    first = grounds[0]
    requests = [_requests(each, method) for each in grounds]
    selection = _AnsweredSelection(clock, {case.case: case for case in first.cases})
    engines = [
        SimulatedEngine(
            *(clock, each.time_model, own),
            window=settings.window,
            max_context=_NO_LIMIT,
            chunk=settings.chunk,
        )
        for each, own in zip(grounds, requests, strict=True)
    ]
    shared = _predictor(clock, first, method, requests[0])
    largest, *smaller = (
        ServerParts(
            engine=engine,
            time_model=each.time_model,
            predictor=SimulatedStatePredictor(engine) if _by_state(each, method) else shared,
            clock=clock,
            stopwatch=clock,
            predictor_grace=settings.predictor_grace,
            coverage=CoverageTracker(each.calibration),
            quality=each.quality,
            selection=selection if method.selects and _measured(each.quality) else None,
            model="" if each is first else _SMALLER,
        )
        for each, engine in zip(grounds, engines, strict=True)
    )
    return replace(largest, smaller=tuple(smaller))


def _measured(quality: LeverQuality | None) -> bool:
    """Whether selection has a price; the node does not select without one."""
    return quality is not None and quality.selection is not None


@dataclass(frozen=True)
class _AnsweredSelection:
    """Selects what was selected when the answers were made; a prompt is named, not held."""

    clock: VirtualClock
    cases: dict[str, AnsweredCase]

    @property
    def shares(self) -> Sequence[float]:
        """As answered."""
        first = next(iter(self.cases.values()))
        return sorted({answer.share for answer in first.answers}, reverse=True)

    def rank(self, conversation: Conversation, prompt_tokens: int) -> _AnsweredRanking:
        """Takes the time that ranking took."""
        case = self.cases[conversation.prompt]
        self.clock.advance(round(sum(case.rankings.values()) * NS_PER_S))
        return _AnsweredRanking(case)


@dataclass(frozen=True)
class _AnsweredRanking:
    case: AnsweredCase

    @property
    def least_share(self) -> float:
        """What the shortest of the answered prompts has of the whole one."""
        shortest = min(answer.prompt_tokens for answer in self.case.answers)
        return min(1.0, shortest / self.case.whole.prompt_tokens) * (1.0 - 1e-9)

    def select(self, share: float) -> Conversation:
        """The name of the prompt of the nearest share that was answered."""
        made = {answer.share for answer in self.case.answers}
        nearest = min(made, key=lambda each: abs(each - share))
        return Conversation("", _name(self.case, nearest))


def _requests(ground: Ground, method: PlanningMethod) -> dict[str, SimulatedRequest]:
    """What the simulated engine makes of every prompt, whole and selected from."""
    requests = {}
    for case in ground.cases:
        certain = certain_length(case.whole.response_tokens, 1)
        for share in sorted({answer.share for answer in case.answers}):
            whole = case.of_share(share)[0]
            told = ground.by_state.get(case.case, {}).get(share, ground.lengths.get(case.case))
            lengths = certain if method.known is Known.LENGTH or told is None else told
            requests[_name(case, share)] = SimulatedRequest(
                prompt_tokens=whole.prompt_tokens,
                response_tokens=case.after(share, whole.prompt_tokens).response_tokens,
                predicted_tokens=lengths.likeliest_tokens,
                lengths=lengths,
                after_eviction=partial(_length_after, case, share),
            )
    return requests


def _by_state(ground: Ground, method: PlanningMethod) -> bool:
    """Whether lengths are told at the end of prefill, and the method goes by them."""
    return bool(ground.by_state) and method.known is Known.PREDICTED


def _predictor(
    clock: VirtualClock,
    ground: Ground,
    method: PlanningMethod,
    requests: dict[str, SimulatedRequest],
) -> SimulatedPredictor | None:
    known = bool(ground.lengths) or method.known is Known.LENGTH
    if method.known is Known.NOTHING or not known:
        return None
    return SimulatedPredictor(clock, ground.time_model, requests)


def _filled(row: Row, ground: Ground, case: AnsweredCase, outcome: Outcome) -> Row:
    """The row with the plan, and with the score of the answer that the plan led to."""
    whole = case.whole.prompt_tokens
    row = replace(row, total=outcome.timing.total, given_tokens=whole)
    if (plan := outcome.plan) is not None:
        row = replace(
            row,
            prompt_tokens=plan.prompt_tokens,
            kept_tokens=plan.kept_tokens,
            rho=plan.rho,
            alpha=plan.alpha,
            predicted_tokens=plan.predicted_tokens,
            planned_tokens=plan.planned_tokens,
            feasible=plan.feasible,
            risk=-1.0 if plan.risk is None else plan.risk,
            expected_score=-1.0 if plan.expected_score is None else plan.expected_score,
            wcet=plan.wcet,
            model=plan.model,
        )
    if isinstance(outcome, Overrun):
        return replace(row, outcome=outcome.reason.value, response_tokens=outcome.response_tokens)
    answer = case.after(_share_of(case, outcome.plan.prompt_tokens), outcome.plan.kept_tokens)
    row = replace(row, response_tokens=outcome.response_tokens)
    if outcome.finish_reason is FinishReason.DEADLINE:
        return _truncated(row, ground.asked[case.case], answer)
    if outcome.late:
        return replace(row, outcome="late")
    return replace(row, outcome="in time", score=answer.score)


def _truncated(row: Row, asked: Case, answer: Answer) -> Row:
    """The row of an answer of which the deadline left the first ``response_tokens``."""
    if text := answer.cut(row.response_tokens):
        return replace(row, outcome="truncated", score=asked.score(text))
    return replace(row, outcome="killed")


def _best(ground: Ground, selects: bool, row: Row, case: AnsweredCase) -> Row:
    """The best of the answers that end in time; who knows them does not start on any other.

    With the policy anytime also the best of what the deadline leaves of the others.
    """
    row = replace(row, given_tokens=case.whole.prompt_tokens)
    made = [
        _in_time(row, ground, case, answer)
        for answer in case.answers
        if selects or answer.share == 1.0
    ]
    possible = [each for each in made if each.outcome in IN_TIME]
    return max(possible, key=lambda row: (row.score, row.rho, -row.alpha), default=row)


def _in_time(row: Row, ground: Ground, case: AnsweredCase, best: Answer) -> Row:
    """What comes of this answer by the end of the budget."""
    took = partial(_time, ground.time_model, case, best)
    ends = bisect_right(range(1, best.response_tokens + 1), row.budget + _ROUNDING, key=took)
    row = replace(
        row,
        total=took(max(1, ends)),
        prompt_tokens=best.prompt_tokens,
        kept_tokens=best.kept_tokens,
        rho=best.prompt_tokens / case.whole.prompt_tokens,
        alpha=1.0 - best.kept_tokens / best.prompt_tokens,
        response_tokens=ends,
    )
    if ends == best.response_tokens:
        return replace(row, outcome="in time", score=best.score)
    if ends == 0 or row.policy != OverrunPolicy.ANYTIME.value:
        return row
    return _truncated(row, ground.asked[case.case], best)


def whole_time(model: TimeModel, case: AnsweredCase) -> float:
    """s that the case takes without any lever."""
    return _time(model, case, case.whole, case.whole.response_tokens)


def _time(model: TimeModel, case: AnsweredCase, answer: Answer, tokens: int) -> float:
    """s as far as so many tokens of the answer."""
    select = case.rankings.get(answer.selection, 0.0)
    work = model.evict_and_decode(answer.prompt_tokens, answer.kept_tokens, tokens)
    return select + model.prefill(answer.prompt_tokens) + work


def _share_of(case: AnsweredCase, prompt_tokens: int) -> float:
    return next(a.share for a in case.answers if a.prompt_tokens == prompt_tokens)


def _length_after(case: AnsweredCase, share: float, kept_tokens: int) -> int:
    return case.after(share, kept_tokens).response_tokens


def _name(case: AnsweredCase, share: float) -> str:
    return case.case if share == 1.0 else f"{case.case}@{share:g}"


def _keep(ended: dict[str, Outcome], outcome: Outcome) -> None:
    if isinstance(outcome, Response) or outcome.terminal:
        ended[outcome.job.id] = outcome
