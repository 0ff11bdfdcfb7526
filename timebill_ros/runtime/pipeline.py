# SPDX-License-Identifier: Apache-2.0
"""What every request goes through."""

from __future__ import annotations

from dataclasses import dataclass, field

from timebill_ros.budget.quality import QualityCurve
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import Engine
from timebill_ros.runtime.clock import Clock
from timebill_ros.runtime.coverage import CoverageTracker
from timebill_ros.runtime.errors import JobStopped
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Reason
from timebill_ros.runtime.pace import PaceTracker
from timebill_ros.runtime.protocols import PredictionService


@dataclass(frozen=True)
class Pipeline:
    """The parts that every request goes through, and the clocks that time it.

    Attributes:
        engine, time_model: see their rooms.
        predictor: None where none is configured; then N_W = N_max.
        clock: deadlines are instants of this clock; simulated time may run at any rate.
        stopwatch: execution is measured with this one, which never jumps.
        default_max_tokens: N_max where the job sets none.
        predictor_grace: s that a finished prefill waits for a prediction that is not there yet,
            at most half of what is left.
        coverage: what the lengths of past responses say of the predictor's probabilities.
        pace: how late past requests were, against the time model.
        quality: Q(alpha) of the loaded model under its eviction method; None where not measured.
    """

    engine: Engine
    time_model: TimeModel
    predictor: PredictionService | None
    clock: Clock
    stopwatch: Clock
    default_max_tokens: int
    predictor_grace: float
    coverage: CoverageTracker = field(default_factory=CoverageTracker)
    pace: PaceTracker = field(default_factory=PaceTracker)
    quality: QualityCurve | None = None

    def max_tokens_of(self, job: Job, prompt_tokens: int) -> int:
        """N_max of this job: its own, or the default shortened to the context that is left.

        Raises:
            JobStopped: REJECTED, with the bound that the prompt or max_tokens exceeds.
        """
        context = self.engine.max_context
        if prompt_tokens == 0:
            raise JobStopped(Reason.REJECTED, "prompt: it is empty after tokenising")
        if prompt_tokens >= context:
            raise JobStopped(
                Reason.REJECTED,
                f"prompt: {prompt_tokens} tokens leave no room for a response in the model's "
                f"context of {context}",
            )
        room = context - prompt_tokens
        if job.max_tokens is None:
            return min(self.default_max_tokens, room)
        if job.max_tokens > room:
            raise JobStopped(
                Reason.REJECTED,
                f"max_tokens: {job.max_tokens} exceed the {room} that a prompt of {prompt_tokens} "
                f"tokens leaves in the model's context of {context}",
            )
        return job.max_tokens
