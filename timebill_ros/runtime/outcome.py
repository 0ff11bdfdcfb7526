# SPDX-License-Identifier: Apache-2.0
"""What comes of a job: its response as it grows, its one outcome, and the times of its stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.runtime.clock import NS_PER_S, Clock, seconds
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
        engine: which engine answered; "" where none did.
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
    engine: str = ""

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
        engine: which engine was tried last; "" where none was.
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
    engine: str = ""

    @property
    def terminal(self) -> bool:
        """Whether nothing more will be heard of this job."""
        return self.reason is not Reason.LATE


Outcome = Response | Overrun


def overrun_without_engine(
    job: Job, reason: Reason, stage: Stage, detail: str, now_ns: int
) -> Overrun:
    """An overrun from what is known of a job without its engine."""
    waited, slack = seconds(now_ns - job.release_ns), seconds(job.deadline_ns - now_ns)
    timing = Timing(queued=waited, total=waited, slack=slack)
    return Overrun(job=job, reason=reason, stage=stage, detail=detail, timing=timing)


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


@dataclass(frozen=True)
class Partial:
    """How far a response has come.

    Attributes:
        text: all of it so far, whole characters only.
        response_tokens: tokens so far.
        alpha: share of the prompt's cache that was evicted.
        slack: deadline minus now, s on the deadlines' clock.
    """

    job: Job
    text: str
    response_tokens: int
    alpha: float
    slack: float


Observer = Callable[[Callable[[], Partial]], None]
"""Called between decoding steps, on the engine's thread; looks at the response if it wants to."""


class Periodically:
    """An observer that looks at the first token, and then at most every ``period`` s.

    Between two looks it costs one reading of the clock.
    """

    def __init__(self, show: Callable[[Partial], None], period: float, stopwatch: Clock) -> None:
        """Hand what it sees to ``show``."""
        self._show = show
        self._period_ns = round(period * NS_PER_S)
        self._stopwatch = stopwatch
        self._next_ns: int | None = None

    def __call__(self, look: Callable[[], Partial]) -> None:
        """Look and show, if it is time."""
        now_ns = self._stopwatch.now_ns()
        if self._next_ns is None or now_ns >= self._next_ns:
            self._next_ns = now_ns + self._period_ns
            self._show(look())


class Timeline:
    """The instants of one request's stages, from the end of its queueing on.

    Queueing, the total and the slack are of the deadline's clock, which may be simulated; stages
    are measured with the stopwatch.
    """

    def __init__(self, job: Job, clock: Clock, stopwatch: Clock) -> None:
        """The job is about to start."""
        self._job = job
        self._clock = clock
        self._stopwatch = stopwatch
        self._queued = seconds(clock.now_ns() - job.release_ns)
        self._started_ns = stopwatch.now_ns()
        self._prefilled_ns: int | None = None
        self._planned_ns: int | None = None
        self._evicted_ns: int | None = None

    def prefilled(self) -> None:
        """Prefill ends now."""
        self._prefilled_ns = self._stopwatch.now_ns()

    def planned(self) -> None:
        """The plan is made; eviction may begin now."""
        self._planned_ns = self._evicted_ns = self._stopwatch.now_ns()

    def evicted(self) -> None:
        """Eviction ends now."""
        self._evicted_ns = self._stopwatch.now_ns()

    @property
    def spent(self) -> float:
        """Seconds since execution started."""
        return seconds(self._stopwatch.now_ns() - self._started_ns)

    @property
    def since_plan(self) -> float:
        """Seconds of eviction and decoding; 0 before there is a plan."""
        return self._between(self._planned_ns, None)

    def timing(self, predict: float) -> Timing:
        """Seconds per stage up to now; the stage under way counts as far as it has come.

        ``predict`` is what the length predictor took, s, which ran beside prefill.
        """
        clock_ns = self._clock.now_ns()
        return Timing(
            queued=self._queued,
            predict=predict,
            prefill=self._between(self._started_ns, self._prefilled_ns),
            evict=self._between(self._planned_ns, self._evicted_ns),
            decode=self._between(self._evicted_ns, None),
            total=seconds(clock_ns - self._job.release_ns),
            slack=seconds(self._job.deadline_ns - clock_ns),
        )

    def _between(self, start_ns: int | None, end_ns: int | None) -> float:
        """Seconds between two instants; up to now where the later one has not come."""
        if start_ns is None:
            return 0.0
        end_ns = self._stopwatch.now_ns() if end_ns is None else end_ns
        return seconds(end_ns - start_ns)
