# SPDX-License-Identifier: Apache-2.0
"""Takes jobs, runs the most urgent one, and sees that each ends with exactly one outcome."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.errors import JobStopped
from timebill_ros.runtime.execution import Execution, Pipeline
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Stage, Timing
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.queue import DeadlineQueue

_LOG = logging.getLogger(__name__)


class Server:
    """The one place that knows which jobs are in flight.

    ``submit`` and ``cancel_all`` may be called from any thread and return at once; ``serve_next``
    belongs to the thread that owns the engine. ``emit`` is called with every outcome, on
    whichever of these threads it arises, never while the server's lock is held. A job is in
    flight from its submission until its terminal outcome is emitted, and is owned by the queue or
    by the running execution, never by both: that is what makes the outcome unique.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        decided: Decisions,
        *,
        queue_capacity: int,
        emit: Callable[[Outcome], None],
    ) -> None:
        """An idle server that accepts jobs."""
        self._pipeline = pipeline
        self._decided = decided
        self._emit = emit
        self._capacity = queue_capacity
        # Re-entrant: under virtual time an arrival may be submitted from inside the engine's work.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue = DeadlineQueue(queue_capacity)
        self._ids: set[str] = set()
        self._running: Execution | None = None
        self._late = False
        self._cancel_detail: str | None = None
        self._closed_detail: str | None = None

    def submit(self, job: Job) -> None:
        """Queue the job, or emit at once why not: EXPIRED, REJECTED or SKIPPED."""
        with self._changed:
            refusal = self._refusal(job)
            if refusal is None:
                self._queue.push(job)
                self._ids.add(job.id)
                self._changed.notify()
        if refusal is not None:
            self._emit(self._never_started(job, *refusal))

    def reject(self, job: Job, detail: str) -> None:
        """Emit REJECTED for a job that was found wanting before it could be submitted."""
        self._emit(self._never_started(job, Reason.REJECTED, detail))

    def wait_for_job(self, timeout: float) -> bool:
        """Whether a job waits, after at most ``timeout`` s."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._queue) > 0, timeout)

    def serve_next(self) -> bool:
        """Run the most urgent job to its outcome; False where none waits."""
        self._drop_expired()
        with self._lock:
            job = self._queue.pop()
            if job is None:
                return False
            execution = Execution(job, self._pipeline, self._decided.planner, self._checkpoint)
            self._running = execution
        outcome = self._outcome_of(execution)
        # Announced before the server is free again: what arrives until then is behind this job.
        self._emit(outcome)
        with self._changed:
            self._running = None
            self._late = False
            self._cancel_detail = None
            self._ids.discard(job.id)
            self._changed.notify_all()
        return True

    def decide(self, decided: Decisions) -> None:
        """Plan the next jobs otherwise, and treat the next missed deadline otherwise."""
        self._decided = decided

    def cancel_all(self, detail: str) -> None:
        """Emit CANCELED for what is queued; stop what runs within one piece of engine work."""
        with self._lock:
            canceled = self._take_queue()
            if self._running is not None:
                self._cancel_detail = detail
        for job in canceled:
            self._emit(self._never_started(job, Reason.CANCELED, detail))

    def close(self, detail: str) -> None:
        """Reject every later job with ``detail``, and cancel what is in flight."""
        with self._lock:
            self._closed_detail = detail
        self.cancel_all(detail)

    def open(self) -> None:
        """Accept jobs again after ``close``."""
        with self._lock:
            self._closed_detail = None

    def wait_until_idle(self, timeout: float) -> bool:
        """Whether nothing is in flight, after at most ``timeout`` s."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._running is None and len(self._queue) == 0, timeout
            )

    @property
    def queue_depth(self) -> int:
        """Number of waiting jobs."""
        with self._lock:
            return len(self._queue)

    def _refusal(self, job: Job) -> tuple[Reason, str] | None:
        """Why this job is not queued; None where it is."""
        overdue_ns = self._pipeline.clock.now_ns() - job.deadline_ns
        if self._closed_detail is not None:
            return Reason.REJECTED, self._closed_detail
        if job.id in self._ids:
            return Reason.REJECTED, f"id: {job.id!r} is already in flight"
        if overdue_ns >= 0:
            return Reason.EXPIRED, f"deadline: passed {seconds(overdue_ns):.3f} s before arrival"
        if self._late and self._running is not None:
            return Reason.SKIPPED, f"arrived while {self._running.job.id!r} ran past its deadline"
        if self._queue.full:
            return Reason.REJECTED, f"queue: full with {self._capacity} instructions"
        return None

    def _outcome_of(self, execution: Execution) -> Outcome:
        """Run the job; every way it can end becomes its terminal outcome here."""
        try:
            response = execution.run()
            if response.timing.slack < 0.0:
                self._miss(execution)
        except JobStopped as stop:
            return execution.overrun(stop.reason, stop.detail)
        except Exception as failure:
            _LOG.exception("%s failed", execution.job.id)
            return self._failed(execution, f"{type(failure).__name__}: {failure}")
        return replace(response, late=self._late)

    def _failed(self, execution: Execution, detail: str) -> Overrun:
        """FAILED with what can still be said: a broken engine may not give its partial text."""
        try:
            return execution.overrun(Reason.FAILED, detail)
        except Exception:
            _LOG.exception("%s has no partial text", execution.job.id)
            return self._never_started(execution.job, Reason.FAILED, detail)

    def _checkpoint(self) -> None:
        """Between two pieces of engine work: time and the caller may end the running job here."""
        self._drop_expired()
        with self._lock:
            execution, cancel_detail = self._running, self._cancel_detail
        if execution is None:
            return
        if cancel_detail is not None:
            raise JobStopped(Reason.CANCELED, cancel_detail)
        if not self._late and self._pipeline.clock.now_ns() >= execution.job.deadline_ns:
            self._miss(execution)

    def _miss(self, execution: Execution) -> None:
        """The running job's deadline has passed: stop it (Kill) or let it run on (Skip-Next)."""
        if self._decided.policy is OverrunPolicy.KILL:
            raise JobStopped(Reason.KILLED, "deadline: reached before the response was complete")
        if self._late:
            return
        with self._lock:
            self._late = True
            skipped = self._take_queue()
        self._emit(execution.overrun(Reason.LATE, "deadline: reached, the response will be late"))
        for job in skipped:
            detail = f"queued behind {execution.job.id!r}, which missed its deadline"
            self._emit(self._never_started(job, Reason.SKIPPED, detail))

    def _drop_expired(self) -> None:
        """Announce the queued jobs whose deadline has come: they would be late from the start."""
        with self._lock:
            expired = self._queue.pop_expired(self._pipeline.clock.now_ns())
            self._ids.difference_update(job.id for job in expired)
        for job in expired:
            detail = "deadline: reached while the instruction waited in the queue"
            self._emit(self._never_started(job, Reason.EXPIRED, detail))

    def _take_queue(self) -> list[Job]:
        jobs = self._queue.pop_all()
        self._ids.difference_update(job.id for job in jobs)
        return jobs

    def _never_started(self, job: Job, reason: Reason, detail: str) -> Overrun:
        now_ns = self._pipeline.clock.now_ns()
        waited = seconds(now_ns - job.release_ns)
        slack = seconds(job.deadline_ns - now_ns)
        timing = Timing(queued=waited, total=waited, slack=slack)
        return Overrun(job=job, reason=reason, stage=Stage.QUEUED, detail=detail, timing=timing)
