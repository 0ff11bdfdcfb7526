# SPDX-License-Identifier: Apache-2.0
"""One job's plan: how much of its prompt is prefilled, and what is evicted after that."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from timebill_ros.budget.plan import Plan, Situation, measured_score
from timebill_ros.budget.risk import LengthRisk
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.request import PreparedRequest, RequestHints
from timebill_ros.runtime.admission import PreparedJob
from timebill_ros.runtime.outcome import Timeline
from timebill_ros.runtime.policy import Decisions
from timebill_ros.runtime.prediction import JobPrediction
from timebill_ros.runtime.server_parts import ServerParts

# Response tokens between two looks at the plan.
_CHECKPOINT = 16

# Most of the time left to a job that may go into waiting for its prediction: the answer needs some.
_GRACE_SHARE = 0.5

# How many times faster than now an engine will not become from one request to the next, and the
# share of answers that may need it to become faster at all, and are not given that chance.
_MUCH_FASTER = 4.0
_RARELY = 0.01

# Least of the time left in which the first token is asked for, however long the answer may become.
_FIRST_TOKEN_SHARE = 0.1

# Most of what a shorter prompt saves that may go into waiting for the prediction that chooses it.
_WORTH_WAITING = 0.1


class JobPlanning:
    """What is known of a job while it runs, and what its planner makes of that.

    Args:
        prepared: the job, with its whole prompt.
        parts: what it runs on.
        decided: how it is planned.
        time_model: that of the job, which a response schema makes slower.
        timeline: what was spent so far.
        remaining: s of execution until the deadline.

    Attributes:
        prediction: of the response's length; None of it until ``start``.
        request: what is prefilled.
        reused_tokens: of those, what need not be run, for an earlier prompt started with the same.
    """

    def __init__(
        self,
        prepared: PreparedJob,
        parts: ServerParts,
        decided: Decisions,
        time_model: TimeModel,
        timeline: Timeline,
        remaining: Callable[[], float],
    ) -> None:
        self.prediction = JobPrediction(prepared.job.id)
        self.request = prepared.request
        self.reused_tokens = 0
        self._prepared = prepared
        self._parts = parts
        self._decided = decided
        self._time_model = time_model
        self._timeline = timeline
        self._remaining = remaining
        self._length_risk: LengthRisk | None = None
        self._next_look = _CHECKPOINT  # response tokens at which the plan is looked at again
        self._most: int | None = None  # response tokens that its engine was told

    def start(self) -> PreparedRequest:
        """Start the prediction, and say what is to be prefilled: the prompt, or less of it.

        The planner is asked with what is known already: only where it would shorten, the passages
        are ranked and the prediction is waited for, as long as that is little against what is
        saved.

        Raises:
            RequestError: the shorter prompt cannot be rendered.
        """
        whole, model, parts = self._prepared.request, self._time_model, self._parts
        reused = self.reused_tokens = parts.engine.reusable(whole)
        if parts.predictor is not None:
            longest = model.longest_predictor_input(whole.prompt_tokens, reused)
            self.prediction.start(parts.predictor, whole, longest)
        if parts.selection is None:
            return whole
        planner, shares = self._decided.planner, parts.selection.shares
        first = planner.share(self._situation(), model, shares)
        if first >= 1.0:
            return whole
        ranked = parts.selection.rank(self._prepared.job.conversation, whole.prompt_tokens)
        shorter = math.ceil(first * whole.prompt_tokens)
        saved = model.prefill(whole.prompt_tokens, reused) - model.prefill(shorter)
        self._take_prediction(_WORTH_WAITING * saved)
        possible = [share for share in shares if share > ranked.least_share]
        share = planner.share(self._situation(), model, [*possible, ranked.least_share])
        if share < 1.0:
            selected = parts.engine.prepare(ranked.select(share))
            self.request = replace(selected, constraint=whole.constraint, sampling=whole.sampling)
            self.reused_tokens = parts.engine.reusable(self.request)
        return self.request

    def expectation(self, *, may_be_late: bool) -> RequestHints:
        """What an engine is told that has others to serve: how urgent, and how long at most.

        At most as many tokens as end in time, were the engine much faster than it is. Of those that
        do not end in time as fast as it is now, only the lengths that answers really have.
        """
        left, prompt = self._remaining(), self.request.prompt_tokens
        most: int | None = None
        model, longest = self._time_model, self._prepared.max_tokens
        known = self._length_risk
        tokens = known.lengths.predicted_tokens(longest) if known else None
        if not may_be_late:

            def fitting(faster: float) -> int:
                prefill = model.prefill(prompt, self.reused_tokens)
                return bisect_right(
                    range(1, longest + 1),
                    faster * left,
                    key=lambda tokens: prefill + model.decode(prompt, tokens),
                )

            most = min(fitting(_MUCH_FASTER), max(fitting(1.0), self._rarely_exceeded()))
            most = max(1, most)
        self._most = most
        answer = model.decode(prompt, min(longest, tokens or longest))
        return RequestHints(left, max(left - answer, _FIRST_TOKEN_SHARE * left), tokens, most)

    def _rarely_exceeded(self) -> int:
        """Response tokens that hardly any answer exceeds, as predicted or as recent ones were."""
        longest, known = self._prepared.max_tokens, self._length_risk
        if known is not None:
            return known.planned_tokens(_RARELY, longest)
        recent = self._parts.recent_lengths.distribution(longest)
        return min(longest, recent.tokens_below(_RARELY, 1.0) or longest)

    def capped(self, response_tokens: int) -> bool:
        """Whether the response was ended by what its engine was told at most, not by N_max."""
        return self._most is not None and self._most <= response_tokens < self._prepared.max_tokens

    def plan(self) -> Plan:
        """Take the prediction and plan from the time that is really left, once prefill is over."""
        finished = self._parts.engine.finish_reason is not None
        self._take_prediction(0.0 if finished else self._parts.predictor_grace)
        return self._decided.planner.plan(self._situation(), self._time_model)

    def again(self, plan: Plan, reached: int) -> Plan:
        """The plan, with what is to be evicted now that ``reached`` response tokens exist.

        Every ``_CHECKPOINT`` tokens the planner looks at the time that is really left, on a machine
        that goes on as slowly as it decoded so far.
        """
        if reached < self._next_look:
            return plan
        self._next_look = reached + _CHECKPOINT
        kept = plan.kept_at(reached)
        situation, model = self._situation(), self._time_model
        profiled = plan.profiled(model, reached)
        slowness = self._timeline.since_plan / profiled if profiled > 0.0 else 1.0
        slower = model.slowed(1.0, max(1.0, slowness))
        fewer = self._decided.planner.keep_on(situation, slower, reached, kept)
        if fewer >= kept:
            return plan
        score = measured_score(situation, 1.0 - fewer / plan.prompt_tokens)
        return plan.evicting(reached, fewer, score)

    def observe(self, plan: Plan, response_tokens: int, *, complete: bool) -> None:
        """Tell how long the response became; what was stopped was longer than that."""
        parts = self._parts
        parts.recent_lengths.observe(response_tokens, complete=complete)
        if self._length_risk is not None:
            parts.coverage.observe(
                self._length_risk, response_tokens, complete=complete, alpha=plan.alpha
            )

    def _situation(self) -> Situation:
        """What is known at this moment."""
        parts, max_tokens, known = self._parts, self._prepared.max_tokens, self._length_risk
        prompt_tokens = self.request.prompt_tokens
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
            rho=prompt_tokens / self._prepared.request.prompt_tokens,
            prior=None if known else parts.recent_lengths.distribution(max_tokens),
            reused_tokens=self.reused_tokens,
        )

    def _take_prediction(self, grace: float) -> None:
        """Take the prediction if it is there within ``grace`` s, and was not taken before."""
        if self._length_risk is not None:
            return
        allowed = min(grace, _GRACE_SHARE * self._remaining())
        lengths = self.prediction.within(max(0.0, allowed))
        if lengths is not None:
            self._length_risk = self._parts.coverage.assess(lengths)
