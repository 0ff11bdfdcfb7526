# SPDX-License-Identifier: Apache-2.0
"""One job's plan: which model answers, how much of its prompt is prefilled, what is evicted."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from timebill_ros.budget.expected import CHECKPOINT
from timebill_ros.budget.plan import (
    DEAREST,
    LeverChoice,
    ModelOption,
    Plan,
    Situation,
    seconds_of,
)
from timebill_ros.budget.risk import LengthRisk
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.request import PreparedRequest, RequestHints
from timebill_ros.runtime.admission import PreparedJob
from timebill_ros.runtime.outcome import Timeline
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.prediction import JobPrediction
from timebill_ros.runtime.prompt_selection import RankedPrompt
from timebill_ros.runtime.server_parts import ServerParts

# Most of the time left to a job that may go into waiting for its prediction: the answer needs some.
_GRACE_SHARE = 0.5

# How many times faster than now an engine will not become from one request to the next, and the
# share of answers that may need it to become faster at all, and are not given that chance.
_MUCH_FASTER = 4.0
_RARELY = 0.01

# Least of the time left in which the first token is asked for, however long the answer may become.
_FIRST_TOKEN_SHARE = 0.1

# Most of what the levers save that may go into waiting for the prediction that chooses them.
_WORTH_WAITING = 0.1


@dataclass
class _OnModel:
    """A job on one of the models that may answer it.

    Attributes:
        prepared: the job, with its whole prompt.
        parts: what it would run on.
        times: the model's for this job, which a response schema makes slower.
        request: what would be prefilled.
        prediction: of the response's length; None of it until it is started.
        reused_tokens: of the prompt, what need not be run, as an earlier one started with the same.
        length_risk: what the prediction says, once it was taken.
    """

    prepared: PreparedJob
    parts: ServerParts
    times: TimeModel
    request: PreparedRequest
    prediction: JobPrediction
    reused_tokens: int = 0
    length_risk: LengthRisk | None = None
    shares: Sequence[float] = field(init=False)

    def __post_init__(self) -> None:
        selection = self.parts.selection
        self.shares = (1.0,) if selection is None else selection.shares

    def prefill(self, share: float) -> float:
        """s to prefill the share of the prompt; only the whole one is sure to reuse anything."""
        whole = self.prepared.request.prompt_tokens
        if share >= 1.0:
            return self.times.prefill(whole, self.reused_tokens)
        kept = math.ceil(share * whole)
        return self.times.select(whole, kept) + self.times.prefill(kept)


class JobPlanning:
    """What is known of a job while it runs, and what its planner makes of that.

    Args:
        prepared: the job, for every model that may answer it.
        parts: what it runs on.
        decided: how it is planned.
        timeline: what was spent so far.
        remaining: s of execution until the deadline.
    """

    def __init__(
        self,
        prepared: PreparedJob,
        parts: ServerParts,
        decided: Decisions,
        timeline: Timeline,
        remaining: Callable[[], float],
    ) -> None:
        job = prepared.job
        self._models = [
            _OnModel(each, own, own.model_of(job), each.request, JobPrediction(job.id))
            for each in prepared.on_models
            for own in (parts.models[each.model],)
        ]
        self._on = self._models[0]
        self._job = job
        self._decided = decided
        self._timeline = timeline
        self._remaining = remaining
        self._next_look = CHECKPOINT  # response tokens at which the plan is looked at again
        self._most: int | None = None  # response tokens that its engine was told

    @property
    def parts(self) -> ServerParts:
        """What it runs on: the largest model's until ``start`` has chosen."""
        return self._on.parts

    @property
    def time_model(self) -> TimeModel:
        """That of the job on these parts."""
        return self._on.times

    @property
    def request(self) -> PreparedRequest:
        """What is prefilled."""
        return self._on.request

    @property
    def max_tokens(self) -> int:
        """N_max on this model."""
        return self._on.prepared.max_tokens

    @property
    def reused_tokens(self) -> int:
        """Of the request's tokens, those that need not be run."""
        return self._on.reused_tokens

    @property
    def prediction(self) -> JobPrediction:
        """Of the response's length; None of it until ``start``."""
        return self._on.prediction

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose before prefill."""
        return len(self._models) > 1 or len(self._on.shares) > 1

    def start(self) -> PreparedRequest:
        """Start the prediction, and choose the model and what it is to prefill.

        The planner is asked with what is known already. Only where it would pull a lever, or may
        need one, the prediction is waited for, as long as that is little against what is saved; and
        only where it would pull one the passages are ranked.

        Raises:
            RequestError: the shorter prompt cannot be rendered.
        """
        for each in self._models:
            each.reused_tokens = each.parts.engine.reusable(each.request)
        self._start_predictions()
        if not self.chooses:
            return self.request
        choose, whole = self._decided.planner.choose, [each.shares for each in self._models]
        first = choose(self._options(whole))
        if first == DEAREST and (wait := self._worth_waiting()):
            # Recent lengths need no lever; this response may be longer.
            self._take_predictions(wait, self._models)
            first = choose(self._options(whole))
        if first != DEAREST:
            ranked = self._ranked()
            saved = self._models[0].prefill(1.0) - self._models[first.model].prefill(first.share)
            self._take_predictions(_WORTH_WAITING * saved, self._models)
            shares = [_possible(*both) for both in zip(self._models, ranked, strict=True)]
            for each in self._models:
                each.times = each.times.ranked()  # that is spent
            choice = self._decided.planner.choose(self._options(shares))
            self._take(choice, ranked[choice.model])
        return self.request

    def _worth_waiting(self) -> float:
        """s to wait for a prediction at most, where the longest response may need a lever.

        0 where the whole prompt leaves time for it, and where the prediction takes longer.
        """
        on = self._models[0]
        n_x, times = on.request.prompt_tokens, on.times
        longest = on.prefill(1.0) + times.decode(n_x, on.prepared.max_tokens)
        if times.predictor is None or longest <= self._remaining():
            return 0.0
        saved = max(on.prefill(1.0) - each.prefill(min(each.shares)) for each in self._models)
        takes = times.predictor(times.longest_predictor_input(n_x, on.reused_tokens))
        return _WORTH_WAITING * saved if takes <= _WORTH_WAITING * saved else 0.0

    def cancel(self) -> None:
        """Nobody waits for a prediction any more."""
        for each in self._models:
            each.prediction.cancel()

    def expectation(self, *, may_be_late: bool) -> RequestHints:
        """What an engine is told that has others to serve: how urgent, and how long at most.

        At most as many tokens as end in time, were the engine much faster than it is. Of those that
        do not end in time as fast as it is now, only the lengths that answers really have.
        """
        left, prompt = self._remaining(), self.request.prompt_tokens
        most: int | None = None
        model, longest = self.time_model, self.max_tokens
        known = self._on.length_risk
        tokens = known.lengths.predicted_tokens(longest) if known else None
        if not may_be_late:

            def fitting(faster: float) -> int:
                prefill = model.prefill(prompt, self.reused_tokens)
                return bisect_right(
                    range(1, longest + 1),
                    faster * left,
                    key=lambda tokens: prefill + model.decode(prompt, tokens),
                )

            most = max(1, min(fitting(_MUCH_FASTER), max(fitting(1.0), self._rarely_exceeded())))
        self._most = most
        answer = model.decode(prompt, min(longest, tokens or longest))
        return RequestHints(left, max(left - answer, _FIRST_TOKEN_SHARE * left), tokens, most)

    def _rarely_exceeded(self) -> int:
        """Response tokens that hardly any answer exceeds, as predicted or as recent ones were."""
        longest, known = self.max_tokens, self._on.length_risk
        if known is not None:
            return known.planned_tokens(_RARELY, longest)
        recent = self.parts.recent_lengths.distribution(longest)
        return min(longest, recent.tokens_below(_RARELY, 1.0) or longest)

    def capped(self, response_tokens: int) -> bool:
        """Whether the response was ended by what its engine was told at most, not by N_max."""
        return self._most is not None and self._most <= response_tokens < self.max_tokens

    def plan(self) -> Plan:
        """Take the prediction and plan from the time that is really left, once prefill is over."""
        finished = self.parts.engine.finish_reason is not None
        self._take_predictions(0.0 if finished else self.parts.predictor_grace, [self._on])
        return self._decided.planner.plan(self._situation(self._on), self.time_model)

    def again(self, plan: Plan, reached: int) -> Plan:
        """The plan, with what is to be evicted now that ``reached`` response tokens exist.

        Every ``CHECKPOINT`` tokens the planner looks at the time that is really left, on a machine
        that goes on as slowly as it decoded so far.
        """
        if reached < self._next_look:
            return plan
        self._next_look = reached + CHECKPOINT
        done = tuple(eviction for eviction in plan.evictions if eviction.at_token < reached)
        kept = done[-1].kept_tokens if done else plan.prompt_tokens
        situation, model = self._situation(self._on), self.time_model
        profiled = seconds_of(done, plan.prompt_tokens, reached, model)
        slowness = self._timeline.since_plan / profiled if profiled > 0.0 else 1.0
        slower = model.slowed(1.0, max(1.0, slowness))
        ahead = self._decided.planner.ahead(situation, slower, reached, kept)
        return plan.with_evictions((*done, *ahead), self.parts.quality)

    def carried_out(self, plan: Plan, kept: int) -> Plan:
        """The plan without what was put off and never done: ``kept`` prompt tokens are cached."""
        done = (each for each in plan.evictions if each.at_token == 1 or each.kept_tokens >= kept)
        return plan.with_evictions(tuple(done), self.parts.quality)

    def observe(self, plan: Plan, response_tokens: int, *, complete: bool) -> None:
        """Tell how long the response became; what was stopped was longer than that."""
        parts, known = self.parts, self._on.length_risk
        parts.recent_lengths.observe(response_tokens, complete=complete)
        if known is not None:
            parts.coverage.observe(known, response_tokens, complete=complete, alpha=plan.alpha)

    def _situation(self, on: _OnModel) -> Situation:
        """What is known at this moment of the job on one model."""
        parts, max_tokens, known = on.parts, on.prepared.max_tokens, on.length_risk
        prompt_tokens = on.request.prompt_tokens
        return Situation(
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            predicted_tokens=known.lengths.predicted_tokens(max_tokens) if known else None,
            window=parts.never_evicted(prompt_tokens),
            spent=self._timeline.spent,
            remaining=self._remaining() - self._decided.margin,
            length_risk=known,
            pace=parts.pace.pace(self._decided.time_risk),
            quality=parts.quality,
            rho=prompt_tokens / on.prepared.request.prompt_tokens,
            prior=None if known else parts.recent_lengths.distribution(max_tokens),
            reused_tokens=on.reused_tokens,
            model=parts.model,
            anytime=self._decided.policy is OverrunPolicy.ANYTIME,
        )

    def _options(self, shares: Sequence[Sequence[float]]) -> list[ModelOption]:
        """Every model with the shares of the prompt that it may be given."""
        return [
            ModelOption(self._situation(each), each.times, own)
            for each, own in zip(self._models, shares, strict=True)
        ]

    def _start_predictions(self) -> None:
        """One for every predictor: models may share theirs."""
        started: dict[int, JobPrediction] = {}
        for each in self._models:
            predictor = each.parts.predictor
            if predictor is None:
                continue
            if id(predictor) not in started:
                started[id(predictor)] = each.prediction
                whole, reused = each.request, each.reused_tokens
                longest = each.times.longest_predictor_input(whole.prompt_tokens, reused)
                each.prediction.start(predictor, whole, longest)
            each.prediction = started[id(predictor)]

    def _take_predictions(self, grace: float, models: Sequence[_OnModel]) -> None:
        """Take those that are there within ``grace`` s, and were not taken before."""
        ends = self._timeline.spent + max(0.0, min(grace, _GRACE_SHARE * self._remaining()))
        for each in models:
            if each.length_risk is None:
                lengths = each.prediction.within(max(0.0, ends - self._timeline.spent))
                if lengths is not None:
                    each.length_risk = each.parts.coverage.assess(lengths)

    def _ranked(self) -> list[RankedPrompt | None]:
        """The prompt's ranked passages for each model; once for those that select alike."""
        keys = [(id(each.parts.selection), each.request.prompt_tokens) for each in self._models]
        ranked: dict[tuple[int, int], RankedPrompt] = {}
        for key, each in zip(keys, self._models, strict=True):
            if each.parts.selection is not None and key not in ranked:
                ranked[key] = each.parts.selection.rank(self._job.conversation, key[1])
        return [ranked.get(key) for key in keys]

    def _take(self, choice: LeverChoice, ranked: RankedPrompt | None) -> None:
        """Go on with the model and the share of the prompt that were chosen."""
        on = self._on = self._models[choice.model]
        for each in self._models:
            if each.prediction is not on.prediction:
                each.prediction.cancel()
        if ranked is not None and choice.share < 1.0:
            whole = on.request
            selected = on.parts.engine.prepare(ranked.select(choice.share))
            on.request = replace(selected, constraint=whole.constraint, sampling=whole.sampling)
            on.reused_tokens = on.parts.engine.reusable(on.request)


def _possible(on: _OnModel, ranked: RankedPrompt | None) -> Sequence[float]:
    """The shares that selection can leave of this prompt."""
    least = 1.0 if ranked is None else ranked.least_share
    return [*(share for share in on.shares if share > least), least]
