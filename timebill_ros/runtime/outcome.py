# SPDX-License-Identifier: Apache-2.0
"""How a job ended: a response, or an overrun with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.runtime.job import Job


class Reason(Enum):
    """Why there is no timely response. All but LATE are terminal."""

    KILLED = "killed"
    LATE = "late"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    REJECTED = "rejected"
    CANCELED = "canceled"
    FAILED = "failed"


class Stage(Enum):
    """How far a job had come."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True)
class Timing:
    """Seconds spent per stage; 0 for a stage that was not reached.

    What lies between a release or a deadline and another instant is told on the clock of the
    deadlines, simulated time for instance; what the engine and the predictor do is measured with
    the monotonic clock. The two add up only where they run at one rate.

    Attributes:
        queued: release to the start of execution, tokenising included, on the deadlines' clock.
        predict: the length predictor, beside prefill on a thread of its own.
        prefill: filling the cache, up to the first response token.
        evict, decode: eviction, and response tokens 2..N.
        total: release to the outcome, on the deadlines' clock.
        slack: deadline minus the outcome's instant, on the deadlines' clock; negative where it
            was missed.
    """

    queued: float = 0.0
    predict: float = 0.0
    prefill: float = 0.0
    evict: float = 0.0
    decode: float = 0.0
    total: float = 0.0
    slack: float = 0.0

    @property
    def execution(self) -> float:
        """Real seconds of the engine's work, to be compared with what was predicted.

        Waiting for a late prediction is not in it; 0 where execution never started.
        """
        return self.prefill + self.evict + self.decode


@dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
        job: what was asked.
        text, finish_reason, response_tokens: the answer, why it ended, and N.
        late: it ended after its deadline, as Skip-Next allows.
        plan, predicted_prefill: what was decided, and the prefill's estimate, s.
        timing: what was measured.
        predictor_fault: why the length predictor failed; "" where it did not.
    """

    job: Job
    text: str
    finish_reason: FinishReason
    late: bool
    response_tokens: int
    plan: Plan
    predicted_prefill: float
    timing: Timing
    predictor_fault: str = ""

    @property
    def truncated(self) -> bool:
        """Whether ``text`` is the best complete prefix of an answer that was ended early.

        By the deadline, or by N_max where a schema forbids to hand over what is incomplete.
        """
        if self.finish_reason is FinishReason.LENGTH:
            return bool(self.job.response_schema)
        return self.finish_reason is FinishReason.DEADLINE


@dataclass(frozen=True)
class Overrun:
    """No timely answer.

    Attributes:
        job: what was asked.
        reason, detail: why, also in words.
        stage: how far it came.
        timing: what was measured until then.
        partial_text, response_tokens: what was generated until then.
        plan: None where the job ended before one was made.
        predicted_prefill: the prefill's estimate, s; 0 where the prompt was not looked at.
        predictor_fault: why the length predictor failed; "" where it did not.
    """

    job: Job
    reason: Reason
    stage: Stage
    detail: str
    timing: Timing
    partial_text: str = ""
    response_tokens: int = 0
    plan: Plan | None = None
    predicted_prefill: float = 0.0
    predictor_fault: str = ""

    @property
    def terminal(self) -> bool:
        """Whether nothing more will be heard of this job."""
        return self.reason is not Reason.LATE


Outcome = Response | Overrun


class JobStopped(Exception):
    """The job ends here with an overrun: raised where that is known, and caught in one place.

    Attributes:
        reason: the overrun's reason.
        detail: one sentence for the user: the field or the cause, and the bound.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the reason beside the message."""
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
