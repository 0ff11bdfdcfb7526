# SPDX-License-Identifier: Apache-2.0
"""One request's way: predict | prefill -> plan -> evict -> decode."""

from __future__ import annotations

import logging
from collections.abc import Callable

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import Plan, Situation
from timebill_ros.budget.risk import LengthRisk
from timebill_ros.engine.errors import RequestError, SchemaRefused
from timebill_ros.engine.protocol import FinishReason, PreparedRequest
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.errors import JobStopped, TimeUp
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Overrun, Reason, Response, Stage, Timing
from timebill_ros.runtime.partial import Partial
from timebill_ros.runtime.pipeline import Pipeline
from timebill_ros.runtime.policy import Decisions
from timebill_ros.runtime.protocols import PendingPrediction
from timebill_ros.runtime.timeline import Timeline

_LOG = logging.getLogger(__name__)

# How a response ends whose length is the model's choice; others were cut off.
_BY_ITSELF = (FinishReason.EOS, FinishReason.STOP)

# Most of the time left to a job that may go into waiting for its prediction: the answer needs some.
_GRACE_SHARE = 0.5


class Execution:
    """Runs one job, and knows at any moment how far it has come.

    ``checkpoint`` is called between any two pieces of engine work; it raises ``JobStopped`` to
    end the job there.
    """

    def __init__(
        self, job: Job, pipeline: Pipeline, decided: Decisions, checkpoint: Callable[[], None]
    ) -> None:
        """A job that is about to start: its queueing ends now."""
        self.job = job
        self.stage = Stage.QUEUED
        self._parts = pipeline
        free = pipeline.time_model
        self._time_model = free.structured() if job.response_schema else free
        self._decided = decided
        self._checkpoint = checkpoint
        self._timeline = Timeline(job, pipeline.clock, pipeline.stopwatch)
        self._prediction: PendingPrediction | None = None
        self._length_risk: LengthRisk | None = None
        self._plan: Plan | None = None
        self._predicted_prefill = 0.0

    def run(self) -> Response:
        """The finished response; whether it is late is for the server to say.

        Raises:
            JobStopped: the checkpoint or a bound on the instruction ended it.
            Exception: whatever the engine or the predictor raised.
        """
        try:
            response = self._run()
            self._observe(complete=response.finish_reason in _BY_ITSELF)
            return response
        except JobStopped:
            self._observe(complete=False)
            raise
        finally:
            if self._prediction is not None:
                self._prediction.cancel()

    def _run(self) -> Response:
        engine, timeline = self._parts.engine, self._timeline
        prompt_tokens, max_tokens = self._begin()
        self.stage = Stage.PREFILL
        while not engine.prefill_chunk():
            self._checkpoint()
        timeline.prefilled()
        plan = self._plan = self._make_plan(prompt_tokens, max_tokens)
        finish = engine.finish_reason
        if finish is None:
            # Still the prefill's: its last chunk, or the plan, may have outlasted the deadline.
            self._checkpoint()
        self.stage = Stage.DECODE
        timeline.planned()
        if finish is None and plan.kept_tokens < prompt_tokens:
            engine.evict(plan.kept_tokens)
            timeline.evicted()
        try:
            while finish is None:
                self._checkpoint()
                engine.step()
                finish = engine.finish_reason
        except TimeUp:
            text = engine.complete_prefix()
            if not text:
                raise
            return self._response(plan, FinishReason.DEADLINE, text)
        return self._response(plan, finish, self._ended_text(finish))

    def _ended_text(self, finish: FinishReason) -> str:
        """The text of a response that has ended; under a schema, one that satisfies it."""
        engine, job = self._parts.engine, self.job
        if finish is not FinishReason.LENGTH or not job.response_schema:
            return engine.text()
        text = engine.complete_prefix()
        if not text:
            raise JobStopped(
                Reason.FAILED,
                f"max_tokens: after {engine.response_tokens} tokens nothing can be closed "
                "so that it satisfies response_schema",
            )
        return text

    def step_fits(self) -> bool:
        """Whether another decoding step, and the margin after it, end by the deadline.

        True before there is a plan, and so nothing that could be answered instead.
        """
        if self._plan is None:
            return True
        cached = self._plan.kept_tokens + self._parts.engine.response_tokens - 1
        return self._time_model.step(cached) + self._decided.margin <= self._remaining()

    def overrun(self, reason: Reason, detail: str) -> Overrun:
        """The overrun that ends (or, for LATE, accompanies) this execution now."""
        partial_text, response_tokens = self._partial()
        return Overrun(
            job=self.job,
            reason=reason,
            stage=self.stage,
            detail=detail,
            timing=self._timing_now(),
            partial_text=partial_text,
            response_tokens=response_tokens,
            plan=self._plan,
            predicted_prefill=self._predicted_prefill,
        )

    def partial(self) -> Partial:
        """The response so far; while it is decoded.

        Raises:
            Exception: whatever the engine raised.
        """
        engine, plan = self._parts.engine, self._plan
        return Partial(
            job=self.job,
            text=engine.text(),
            response_tokens=engine.response_tokens,
            alpha=0.0 if plan is None else plan.alpha,
            slack=seconds(self.job.deadline_ns - self._parts.clock.now_ns()),
        )

    def _partial(self) -> tuple[str, int]:
        """Text and tokens so far; nothing where a broken engine cannot say it.

        An overrun must come out whatever state the engine is in.
        """
        if self.stage is not Stage.DECODE:
            return "", 0
        try:
            return self._parts.engine.text(), self._parts.engine.response_tokens
        except Exception:
            _LOG.exception("%s: the engine cannot tell its partial text", self.job.id)
            return "", 0

    def _begin(self) -> tuple[int, int]:
        """Tokenise, check the bounds, start the predictor; N_x and N_max."""
        job, parts = self.job, self._parts
        request = self._prepared()
        prompt_tokens = request.prompt_tokens
        self._checkpoint()
        max_tokens = parts.max_tokens_of(job, prompt_tokens)
        parts.engine.begin(request, max_tokens)
        self._predicted_prefill = self._time_model.prefill(prompt_tokens)
        if parts.predictor is not None:
            longest = self._time_model.longest_predictor_input(prompt_tokens)
            self._prediction = parts.predictor.start(request.text, request.prompt_ids, longest)
        return prompt_tokens, max_tokens

    def _prepared(self) -> PreparedRequest:
        """The request as the engine takes it; what cannot be taken is the instruction's fault."""
        job = self.job
        try:
            return self._parts.engine.prepare(job.conversation, job.response_schema)
        except SchemaRefused as error:
            raise JobStopped(Reason.REJECTED, str(error)) from error
        except RequestError as error:
            raise JobStopped(Reason.REJECTED, f"messages: {error}") from error

    def _make_plan(self, prompt_tokens: int, max_tokens: int) -> Plan:
        """Take the prediction and plan from the time that is really left."""
        parts, lengths = self._parts, self._prediction_in_time()
        self._length_risk = None if lengths is None else parts.coverage.assess(lengths)
        situation = Situation(
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            predicted_tokens=None if lengths is None else lengths.predicted_tokens(max_tokens),
            window=parts.engine.window,
            spent=self._timeline.spent,
            remaining=self._remaining() - self._decided.margin,
            length_risk=self._length_risk,
            pace=parts.pace.pace(self._decided.time_risk),
            quality=parts.quality,
        )
        return self._decided.planner.plan(situation, self._time_model)

    def _prediction_in_time(self) -> LengthDistribution | None:
        """The predicted length; None where there is no prediction, or none in time."""
        if self._prediction is None:
            return None
        finished = self._parts.engine.finish_reason is not None
        allowed = min(self._parts.predictor_grace, _GRACE_SHARE * self._remaining())
        grace = 0.0 if finished else allowed
        return self._prediction.wait(max(0.0, grace))

    def _observe(self, *, complete: bool) -> None:
        """Tell how far the response got, and how late; what was stopped was longer than that."""
        plan, parts = self._plan, self._parts
        if plan is None:
            return
        reached = parts.engine.response_tokens
        if reached > 1:  # The first token is the prefill's, and needs no eviction.
            n_x, kept = plan.prompt_tokens, plan.kept_tokens
            profiled = self._time_model.evict_and_decode(n_x, kept, reached)
            parts.pace.observe(self._timeline.since_plan, profiled)
        if self._length_risk is not None:
            parts.coverage.observe(self._length_risk, reached, complete=complete, alpha=plan.alpha)

    def _response(self, plan: Plan, finish: FinishReason, text: str) -> Response:
        return Response(
            job=self.job,
            text=text,
            finish_reason=finish,
            late=False,
            response_tokens=self._parts.engine.response_tokens,
            plan=plan,
            predicted_prefill=self._predicted_prefill,
            timing=self._timing_now(),
        )

    def _remaining(self) -> float:
        """Seconds of execution until the deadline, at the rate of the deadline's clock."""
        clock = self._parts.clock
        return seconds(self.job.deadline_ns - clock.now_ns()) / clock.rate

    def _timing_now(self) -> Timing:
        return self._timeline.timing(self._prediction.elapsed if self._prediction else 0.0)
