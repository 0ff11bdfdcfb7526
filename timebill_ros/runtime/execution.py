# SPDX-License-Identifier: Apache-2.0
"""One job from the moment it takes the engine to its outcome: prefill, plan, evict, decode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.errors import ServerError, ServerUnavailable
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.runtime.admission import PreparedJob
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.outcome import (
    JobStopped,
    Observer,
    Outcome,
    Overrun,
    Partial,
    Reason,
    Response,
    Stage,
    Timeline,
)
from timebill_ros.runtime.pace_tracker import StepTimer
from timebill_ros.runtime.planning import JobPlanning
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.server_parts import ServerParts

_LOG = logging.getLogger(__name__)

# How a response ends whose length is the model's choice; others were cut off.
_BY_ITSELF = (FinishReason.EOS, FinishReason.STOP)


class Execution:
    """Runs one job, and decides alone what its deadline means for it.

    Everything about the deadline is here: whether the job may start, the time that its plan may
    use, the moment it is stopped, late, or answered early, as its policy says. The server adds two
    things: whether the job was canceled, and somebody to tell when it becomes late.

    Attributes:
        job: what is answered.
        stage: how far it has come.
        late: its deadline has passed, and Skip-Next lets it run on.
        given_up: its engine failed or had no token when another one needed the time.
    """

    def __init__(
        self,
        prepared: PreparedJob,
        parts: ServerParts,
        decided: Decisions,
        *,
        canceled: Callable[[], str | None],
        tell_late: Callable[[Overrun], None],
        reserve: float = 0.0,
    ) -> None:
        """A job that is about to start: its queueing ends now.

        Args:
            prepared: the job.
            parts: what it runs on.
            decided: how it is planned, and what its deadline means.
            canceled: asked between any two pieces of engine work; says why the job is to stop.
            tell_late: called once with the overrun LATE, when Skip-Next lets the job run on.
            reserve: s that another engine needs, should this one have no token by then.
        """
        self.job = prepared.job
        self.stage = Stage.QUEUED
        self.late = False
        self.given_up = False
        self._reserve = reserve
        late = decided.policy is OverrunPolicy.SKIP_NEXT
        self._ends_ns = self.job.deadline_ns if late else self.job.answer_by_ns
        self._decided = decided
        self._canceled = canceled
        self._tell_late = tell_late
        self._observer: Observer | None = None
        self._timeline = Timeline(self.job, parts.clock, parts.stopwatch)
        self._planning = JobPlanning(prepared, parts, decided, self._timeline, self._remaining)
        self._parts = self._planning.parts
        self._plan: Plan | None = None
        self._kept = 0  # prompt tokens that are cached
        self._predicted_prefill = 0.0
        self._steps = StepTimer(parts.pace, parts.stopwatch)

    def run(self, observer: Observer | None = None) -> Outcome:
        """Run the job; every way it can end becomes its one terminal outcome here.

        ``observer`` watches the response grow.
        """
        self._observer = observer
        try:
            outcome = self._ended()
        except ServerError as failure:
            self.given_up = True
            outcome = self.overrun(Reason.FAILED, str(failure))
        except Exception as failure:  # noqa: BLE001 - whatever a part raises ends this job alone
            _LOG.exception("%s failed", self.job.id)
            outcome = self.overrun(Reason.FAILED, f"{type(failure).__name__}: {failure}")
        self._planning.cancel()
        self._give_up_engine()
        return outcome

    def overrun(self, reason: Reason, detail: str) -> Overrun:
        """The overrun that ends (or, for LATE, accompanies) this execution now."""
        partial_text, response_tokens = self._text_so_far()
        return Overrun(
            job=self.job,
            reason=reason,
            stage=self.stage,
            detail=detail,
            timing=self._timeline.timing(self._planning.prediction.elapsed),
            partial_text=partial_text,
            response_tokens=response_tokens,
            plan=self._carried_out(),
            predicted_prefill=self._predicted_prefill,
            predictor_fault=self._planning.prediction.fault,
            engine=self._parts.name,
        )

    def _ended(self) -> Outcome:
        """The response, or the overrun of a job that was stopped."""
        outcome: Outcome
        try:
            outcome = self._answer()
        except JobStopped as stop:
            outcome = self.overrun(stop.reason, stop.detail)
        self._observe()
        return outcome

    def _answer(self) -> Response:
        """From the prompt to the response.

        Raises:
            JobStopped: the deadline, its caller or a bound on the instruction ended it.
            Exception: whatever the engine raised.
        """
        self._begin()
        engine = self._parts.engine
        self._prefill()
        plan = self._plan = self._planning.plan()
        if engine.finish_reason is None:
            # Still the prefill's: its last chunk, or the plan, may have outlasted the deadline.
            self._checkpoint()
        self.stage = Stage.DECODE
        self._timeline.planned()
        finish, text = self._decode(plan)
        timing = self._timeline.timing(self._planning.prediction.elapsed)
        if timing.slack < 0.0:
            self._miss()
        return Response(
            job=self.job,
            text=text,
            finish_reason=finish,
            late=self.late,
            response_tokens=engine.response_tokens,
            plan=self._planning.carried_out(self._plan, self._kept),
            predicted_prefill=self._predicted_prefill,
            timing=timing,
            predictor_fault=self._planning.prediction.fault,
            engine=self._parts.name,
        )

    def _begin(self) -> None:
        """Start the predictor, and hand the planner's choice of model as much as it wants to it."""
        planning = self._planning
        self._checkpoint()
        # Where nothing can be chosen, what is hopeless is known before it costs a prediction.
        if not planning.chooses:
            self._check_prefill(planning.request, self._parts.engine.reusable(planning.request))
        request = planning.start()
        parts = self._parts = planning.parts
        self._steps = StepTimer(parts.pace, parts.stopwatch)
        self._kept = request.prompt_tokens
        if planning.chooses:
            self._check_prefill(request, planning.reused_tokens)
        late = self._decided.policy is OverrunPolicy.SKIP_NEXT
        expected = planning.expectation(may_be_late=late)
        parts.engine.begin(replace(request, expected=expected), planning.max_tokens)

    def _check_prefill(self, request: PreparedRequest, reused: int) -> None:
        """Leave the engine to others where prefill alone cannot end by the deadline.

        Not under Skip-Next, whose late answers count too.
        """
        self._predicted_prefill = self._planning.time_model.prefill(request.prompt_tokens, reused)
        remaining = self._remaining()
        if self._decided.policy is OverrunPolicy.SKIP_NEXT or self._parts.pace.prefill_fits(
            self._predicted_prefill, remaining
        ):
            return
        raise JobStopped(
            Reason.EXPIRED,
            f"deadline: {remaining:.3f} s ahead, but prefill of {request.prompt_tokens - reused} "
            f"tokens alone is predicted to take {self._predicted_prefill:.3f} s",
        )

    def _prefill(self) -> None:
        """Fill the cache, chunk by chunk."""
        self.stage = Stage.PREFILL
        while not self._parts.engine.prefill_chunk():
            self._checkpoint()
        self._timeline.prefilled()
        spent, expected = self._timeline.spent, self._predicted_prefill
        self._parts.pace.observe_prefill(spent, expected)
        if self._parts.slowdown is not None:
            self._parts.slowdown.observe_prefill(spent, expected)

    def _decode(self, plan: Plan) -> tuple[FinishReason, str]:
        """Evict and decode as planned; why the response ended, and its text."""
        engine = self._parts.engine
        while (finish := engine.finish_reason) is None:
            plan = self._evict(plan)
            self._checkpoint()
            if self._decided.policy is OverrunPolicy.ANYTIME and not self._step_fits():
                return FinishReason.DEADLINE, self._early_text()
            self._steps.step(engine, self._profiled_step())
        if finish is FinishReason.LENGTH and self._planning.capped(engine.response_tokens):
            return FinishReason.DEADLINE, self._early_text()
        cut_json = finish is FinishReason.LENGTH and self.job.response_schema
        return finish, self._closed_text() if cut_json else engine.text()

    def _evict(self, plan: Plan) -> Plan:
        """Evict what the plan, made anew now and then, does not keep from here on."""
        reached = self._parts.engine.response_tokens
        self._plan = plan = self._planning.again(plan, reached)
        if (kept := plan.kept_at(reached)) < self._kept:
            self._kept = kept
            self._parts.engine.evict(kept)
            if reached == 1:
                self._timeline.evicted()
        return plan

    def _carried_out(self) -> Plan | None:
        """The plan as far as the response came."""
        return self._plan and self._planning.carried_out(self._plan, self._kept)

    def _early_text(self) -> str:
        """What can stand for itself of a response that the deadline ends."""
        if text := self._parts.engine.complete_prefix():
            return text
        raise JobStopped(
            Reason.KILLED,
            "deadline: too near for another token, and nothing generated can stand for itself",
        )

    def _closed_text(self) -> str:
        """What satisfies the schema of a response that N_max ends."""
        engine = self._parts.engine
        if text := engine.complete_prefix():
            return text
        raise JobStopped(
            Reason.FAILED,
            f"max_tokens: after {engine.response_tokens} tokens nothing can be closed "
            "so that it satisfies response_schema",
        )

    def _checkpoint(self) -> None:
        """Between two pieces of engine work, the caller or the deadline may end the job here."""
        if detail := self._canceled():
            raise JobStopped(Reason.CANCELED, detail)
        decoding = self.stage is Stage.DECODE
        # Anytime ends a response that grows before the deadline, not at it.
        early = decoding and self._decided.policy is OverrunPolicy.ANYTIME
        if not early and self._parts.clock.now_ns() >= self._ends_ns:
            self._miss()
        if self._reserve and self.stage is Stage.PREFILL and self._remaining() < self._reserve:
            raise ServerUnavailable(f"no token with {self._remaining():.3f} s left")
        if decoding:
            self._look()

    def _miss(self) -> None:
        """The deadline has passed: let the job run on (Skip-Next), or stop it."""
        if self._decided.policy is not OverrunPolicy.SKIP_NEXT:
            raise JobStopped(Reason.KILLED, "deadline: reached before the response was complete")
        if not self.late:
            self.late = True
            self._tell_late(self.overrun(Reason.LATE, "deadline: reached, the answer will be late"))

    def _step_fits(self) -> bool:
        """Whether another decoding step, and the margin after it, end by the deadline.

        As fast as the latest steps were: the profile may have been taken on a quieter machine.
        """
        step = self._parts.pace.step(self._profiled_step())
        return step + self._decided.margin <= self._remaining()

    def _profiled_step(self) -> float:
        """Seconds of the next decoding step as profiled."""
        return self._planning.time_model.step(self._kept + self._parts.engine.response_tokens - 1)

    def _remaining(self) -> float:
        """Seconds of execution until the deadline, at the rate of the deadline's clock."""
        return self._parts.time_left(self.job)

    def _look(self) -> None:
        """Let the observer look. If it raises, it is not called again, and the job goes on."""
        if self._observer is None:
            return
        try:
            self._observer(self._partial)
        except Exception:  # noqa: BLE001 - who watches a job must not end it
            _LOG.exception("%s: its partial response could not be shown", self.job.id)
            self._observer = None

    def _partial(self) -> Partial:
        """The response so far, while it is decoded."""
        engine, plan = self._parts.engine, self._carried_out()
        return Partial(
            job=self.job,
            text=engine.text(),
            response_tokens=engine.response_tokens,
            alpha=0.0 if plan is None else plan.alpha,
            slack=seconds(self.job.deadline_ns - self._parts.clock.now_ns()),
        )

    def _text_so_far(self) -> tuple[str, int]:
        """Text and tokens so far; nothing where a broken engine cannot say it."""
        if self.stage is not Stage.DECODE:
            return "", 0
        try:
            return self._parts.engine.text(), self._parts.engine.response_tokens
        except Exception:  # noqa: BLE001 - an overrun comes out of a broken engine too
            _LOG.exception("%s: the engine cannot tell its partial text", self.job.id)
            return "", 0

    def _give_up_engine(self) -> None:
        """Nothing of the request goes on, wherever the engine runs it."""
        try:
            self._parts.engine.abort()
        except Exception:  # noqa: BLE001 - an outcome comes out of a broken engine too
            _LOG.exception("%s: the engine could not give it up", self.job.id)

    def _observe(self) -> None:
        """Tell how far the response got, and how late; what was stopped was longer than that."""
        parts = self._parts
        if (plan := self._carried_out()) is None:
            return
        reached = parts.engine.response_tokens
        if reached > 1:  # The first token is the prefill's, and needs no eviction.
            profiled = plan.profiled(self._planning.time_model, reached)
            parts.pace.observe(self._timeline.since_plan, profiled)
            if parts.slowdown is not None:
                parts.slowdown.observe_decoding(self._timeline.since_plan, profiled)
        self._planning.observe(plan, reached, complete=parts.engine.finish_reason in _BY_ITSELF)
