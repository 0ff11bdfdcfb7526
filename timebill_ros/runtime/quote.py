# SPDX-License-Identifier: Apache-2.0
"""What an instruction could be promised, told without running it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

import numpy as np

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import ModelOption, Plan, Situation, seconds_of
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.runtime.admission import Prepare, PreparedJob
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.engine_chain import EngineChain
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Reason
from timebill_ros.runtime.policy import Decisions
from timebill_ros.runtime.prediction import JobPrediction
from timebill_ros.runtime.server_parts import ServerParts

# Without an accepted risk, an answer counts as promised that is likelier in time than not.
_LIKELY = 0.5
# A predictor that takes longer than this is not asked: it predicts for what runs. s
_QUICK_PREDICTION = 0.005
_PREDICTION_GRACE = 0.010


@dataclass(frozen=True)
class Quote:
    """What would come of a job that had the engine to itself from now on.

    Attributes:
        budget: s from now to its deadline.
        plan: the planner's, as if the prefill took what is predicted.
        predicted_prefill: the prefill's estimate, s.
        in_time: probability that the answer ends by the deadline.
        expected_score: measured score of such answers, 0 to 100, times ``in_time``; None where no
            score was measured.
        enough: s within which the cheapest plan ends with an accepted probability.
    """

    budget: float
    plan: Plan
    predicted_prefill: float
    in_time: float
    expected_score: float | None
    enough: float

    @property
    def promised(self) -> bool:
        """Whether even the cheapest plan has the time that it needs."""
        return self.enough <= self.budget


class Quotes:
    """Tells what jobs could be promised, and prepares them; hopeless ones are refused if so set.

    Of several engines, the first one that can promise an answer counts; where none can, the one
    that needs the least time.

    May be used from any thread; takes as long as tokenising the prompt, and some milliseconds, for
    each engine that is asked.
    """

    def __init__(self, chain: EngineChain, decided: Decisions, prepare: Prepare) -> None:
        """Of jobs that run on the chain, as decided, and are prepared so for its first engine."""
        self._chain = chain
        self._decided = decided
        self._prepare = prepare

    def decide(self, decided: Decisions) -> None:
        """Plan the next ones otherwise."""
        self._decided = decided

    def quote(self, job: Job) -> Quote:
        """What the job could be promised now.

        Raises:
            JobStopped: REJECTED, with the field and the bound.
        """
        return self._best(self._prepare(job))

    def __call__(self, job: Job) -> PreparedJob:
        """The job, prepared.

        Raises:
            JobStopped: REJECTED, with the field and the bound; under the admission ``reject`` also
                one whose cheapest plan needs more time than there is, and how much.
        """
        prepared = self._prepare(job)
        if not self._decided.rejects_hopeless:
            return prepared
        quote = self._best(prepared)
        if quote.promised:
            return prepared
        budget = seconds(job.deadline_ns - job.release_ns) + quote.enough - quote.budget
        raise JobStopped(
            Reason.REJECTED,
            f"{job.deadline_field}: {quote.budget:.3f} s are left, and the cheapest plan for a "
            f"prompt of {prepared.request.prompt_tokens} tokens needs {quote.enough:.3f} s; a "
            f"budget of {budget:.3f} s would have been enough",
        )

    def _best(self, prepared: PreparedJob) -> Quote:
        """Of the engines that a job would try now."""
        quotes: list[Quote] = []
        for engine in self._chain.usable():
            own = self._chain.prepared_for(engine, prepared)
            if isinstance(own, PreparedJob):
                quotes.append(self._quoted(engine.parts, own))
                if quotes[-1].promised:
                    return quotes[-1]
        if not quotes:
            raise JobStopped(Reason.FAILED, "no engine can take it at present")
        return min(quotes, key=lambda quote: quote.enough)

    def _quoted(self, parts: ServerParts, prepared: PreparedJob) -> Quote:
        """By the planner's choice among the models; the cheapest of all says what is enough."""
        decided, planner, job = self._decided, self._decided.planner, prepared.job
        left = parts.time_left(job)
        options = [
            self._option(parts.models[each.model], each, left - decided.margin)
            for each in prepared.on_models
        ]
        chosen, share = planner.choose(options)
        model = options[chosen].times
        situation = _prefilled(options[chosen].situation, model, share)
        plan = planner.plan(situation, model)
        in_time = 1.0 - _beyond(situation, _tokens_within(situation, model, plan), plan.alpha)
        score = plan.score
        expected = None if score is None else score * in_time
        hurried = [_hurried(option) for option in options]
        possible = hurried[: planner.choose(hurried).model + 1]
        enough = min(map(self._needed, possible)) + decided.margin
        return Quote(left, plan, situation.spent, in_time, expected, enough)

    def _needed(self, hurried: ModelOption) -> float:
        """s of a model's cheapest plan, for a response that is longer with an accepted risk."""
        planner, whole, model = self._decided.planner, hurried.situation, hurried.times
        shares = (1.0, planner.choose([hurried]).share)  # the whole prompt may have more to reuse
        soonest = min((_prefilled(whole, model, share) for share in shares), key=_spent)
        cheapest = planner.plan(soonest, model)
        prompt = soonest.prompt_tokens

        def beyond(tokens: int) -> float:
            return -_beyond(soonest, tokens, cheapest.alpha)

        longest, accepted = soonest.max_tokens, planner.risk or _LIKELY
        tokens = 1 + bisect_left(range(1, longest), -accepted, key=beyond)
        work = min(
            model.evict_and_decode(prompt, kept, tokens) for kept in (prompt, cheapest.kept_tokens)
        )
        return soonest.spent + soonest.pace.worst(work)

    def _option(self, parts: ServerParts, prepared: PreparedJob, remaining: float) -> ModelOption:
        """What is known before the prefill of the job on one model."""
        request = prepared.request
        model, longest = parts.model_of(prepared.job), prepared.max_tokens
        lengths = _predicted(parts, request, model)
        known = None if lengths is None else parts.coverage.assess(lengths)
        situation = Situation(
            prompt_tokens=request.prompt_tokens,
            max_tokens=longest,
            predicted_tokens=None if lengths is None else lengths.predicted_tokens(longest),
            window=parts.never_evicted(request.prompt_tokens),
            spent=0.0,
            remaining=remaining,
            length_risk=known,
            pace=parts.pace.pace(self._decided.time_risk),
            quality=parts.quality,
            prior=None if known else parts.recent_lengths.distribution(longest),
            reused_tokens=parts.engine.reusable(request),
            model=parts.model,
        )
        shares = (1.0,) if parts.selection is None else tuple(parts.selection.shares)
        return ModelOption(situation, model, shares)


def _predicted(
    parts: ServerParts, request: PreparedRequest, model: TimeModel
) -> LengthDistribution | None:
    """The predicted length, of a predictor that tells it at once; None otherwise."""
    longest = model.longest_predictor_input(request.prompt_tokens)
    if parts.predictor is None or model.predictor is None:
        return None
    if model.predictor(longest) > _QUICK_PREDICTION:
        return None
    prediction = JobPrediction("a quote")
    prediction.start(parts.predictor, request, longest)
    try:
        return prediction.within(_PREDICTION_GRACE)
    finally:
        prediction.cancel()


def _prefilled(whole: Situation, model: TimeModel, share: float) -> Situation:
    """The situation once the share of the prompt is prefilled, as predicted."""
    tokens = max(1, math.ceil(share * whole.prompt_tokens))
    reused = whole.reused_tokens if share >= 1.0 else 0
    selecting = model.select(whole.prompt_tokens, tokens) if share < 1.0 else 0.0
    prefill = selecting + model.prefill(tokens, reused)
    return replace(
        whole,
        reused_tokens=reused,
        prompt_tokens=tokens,
        window=min(whole.window, tokens),
        rho=tokens / whole.prompt_tokens,
        spent=prefill,
        remaining=whole.remaining - prefill,
    )


def _hurried(option: ModelOption) -> ModelOption:
    """The option of a request that has no time left."""
    return replace(option, situation=replace(option.situation, remaining=-1.0))


def _spent(situation: Situation) -> float:
    return situation.spent


def _tokens_within(situation: Situation, model: TimeModel, plan: Plan) -> int:
    """The most response tokens that end in time under the plan; 0 where none does."""
    if situation.remaining < 0.0:
        return 0
    n_x, evictions = situation.prompt_tokens, plan.evictions
    return bisect_right(
        range(1, situation.max_tokens + 1),
        situation.remaining,
        key=lambda tokens: situation.pace.worst(seconds_of(evictions, n_x, tokens, model)),
    )


def _beyond(situation: Situation, tokens: int, alpha: float) -> float:
    """P(N > tokens); nothing is longer than N_max."""
    if tokens >= situation.max_tokens:
        return 0.0
    if tokens < 1:
        return 1.0
    known, prior = situation.length_risk, situation.prior
    if known is not None:
        return float(known.probability_beyond(np.array([tokens]), np.array([alpha]))[0])
    return 1.0 if prior is None else float(prior.beyond(tokens))
