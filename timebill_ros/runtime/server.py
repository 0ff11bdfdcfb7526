# SPDX-License-Identifier: Apache-2.0
"""Takes jobs, runs the most urgent one, and sees that each ends with exactly one outcome."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.errors import JobStopped, TimeUp
from timebill_ros.runtime.execution import Execution
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Stage, Timing
from timebill_ros.runtime.partial import Observer
from timebill_ros.runtime.pipeline import Pipeline
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.queue import DeadlineQueue
from timebill_ros.runtime.run import Run

_LOG = logging.getLogger(__name__)


class Server:
    """The one place that knows which jobs are in flight.

    ``submit`` and the cancelling methods may be called from any thread and return at once;
    ``serve_next`` belongs to the thread that owns the engine. ``emit`` is called with every
    outcome, on whichever of these threads it arises, never while the server's lock is held; what it
    raises is logged and costs that outcome alone. A job is in flight from its submission until its
    terminal outcome is emitted, and is owned by the queue or by the running execution, never by
    both: that is what makes the outcome unique.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        decided: Decisions,
        *,
        queue_capacity: int,
        emit: Callable[[Outcome], None],
        observe: Callable[[Job], Observer | None] = lambda _: None,
    ) -> None:
        """An idle server that accepts jobs; ``observe`` says who watches one that starts."""
        self._pipeline = pipeline
        self._decided = decided
        self._emit = emit
        self._observe = observe
        self._capacity = queue_capacity
        # Re-entrant: under virtual time an arrival may be submitted from inside the engine's work.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue = DeadlineQueue(queue_capacity)
        self._ids: set[str] = set()
        self._running: Run | None = None
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
            self._never_started(job, *refusal)

    def reject(self, job: Job, detail: str) -> None:
        """Emit REJECTED for a job that was found wanting before it could be submitted."""
        self._never_started(job, Reason.REJECTED, detail)

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
            decided = self._decided
            execution = Execution(job, self._pipeline, decided, self._checkpoint)
            run = self._running = Run(execution, decided)
        outcome = self._outcome_of(run)
        # Announced before the server is free again: what arrives until then is behind this job.
        self._end(run, outcome)
        with self._changed:
            self._running = None
            self._ids.discard(job.id)
            self._changed.notify_all()
        return True

    def decide(self, decided: Decisions) -> None:
        """Plan the next jobs otherwise, and treat the next missed deadline otherwise."""
        self._decided = decided

    def cancel(self, job: Job, detail: str) -> bool:
        """Emit CANCELED if it is queued; stop it within one piece of engine work if it runs.

        Takes the job itself, as its id may by now be that of a later one. False where it has
        ended. One that ends by itself just now has that outcome, and no other.
        """
        with self._lock:
            queued = self._queue.remove(job)
            if queued:
                self._ids.discard(job.id)
            else:
                run = self._running
                if run is None or run.ended or run.execution.job is not job:
                    return False
                run.cancel_detail = detail
        if queued:
            self._never_started(job, Reason.CANCELED, detail)
        return True

    def cancel_all(self, detail: str) -> None:
        """Emit CANCELED for what is queued; stop what runs within one piece of engine work."""
        with self._lock:
            canceled = self._take_queue()
            if self._running is not None:
                self._running.cancel_detail = detail
        for job in canceled:
            self._never_started(job, Reason.CANCELED, detail)

    def rewind(self, detail: str) -> None:
        """The deadlines' clock was set back: emit CANCELED for what was released after its now.

        What such jobs ask about has not happened yet, or will happen again with the same ids.
        """
        now_ns = self._pipeline.clock.now_ns()
        with self._lock:
            canceled = self._queue.pop_released_after(now_ns)
            self._ids.difference_update(job.id for job in canceled)
            run = self._running
            if run is not None and run.execution.job.release_ns > now_ns:
                run.cancel_detail = detail
        for job in canceled:
            self._never_started(job, Reason.CANCELED, detail)

    def abandon(self, detail: str) -> None:
        """Emit CANCELED for what runs without waiting for its engine; its outcome is void."""
        with self._lock:
            run = self._running
        if run is not None:
            job, stage = run.execution.job, run.execution.stage
            self._end(run, self._without_engine(job, Reason.CANCELED, stage, detail))

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

    def take_queue_peak(self) -> int:
        """Most jobs that waited at once since this was asked last."""
        with self._lock:
            return self._queue.take_peak()

    def _refusal(self, job: Job) -> tuple[Reason, str] | None:
        """Why this job is not queued; None where it is."""
        overdue_ns = self._pipeline.clock.now_ns() - job.deadline_ns
        if self._closed_detail is not None:
            return Reason.REJECTED, self._closed_detail
        if job.id in self._ids:
            return Reason.REJECTED, f"id: {job.id!r} is already in flight"
        if overdue_ns >= 0:
            return Reason.EXPIRED, f"deadline: passed {seconds(overdue_ns):.3f} s before arrival"
        if self._running is not None and self._running.late:
            late = self._running.execution.job.id
            return Reason.SKIPPED, f"arrived while {late!r} ran past its deadline"
        if self._queue.full:
            return Reason.REJECTED, f"queue: full with {self._capacity} instructions"
        return None

    def _outcome_of(self, run: Run) -> Outcome:
        """Run the job; every way it can end becomes its terminal outcome here."""
        execution = run.execution
        try:
            run.observer = self._observe(execution.job)
            response = execution.run()
            if response.timing.slack < 0.0:
                self._miss(run)
        except JobStopped as stop:
            return execution.overrun(stop.reason, stop.detail)
        except Exception as failure:
            _LOG.exception("%s failed", execution.job.id)
            return execution.overrun(Reason.FAILED, f"{type(failure).__name__}: {failure}")
        return replace(response, late=run.late)

    def _checkpoint(self) -> None:
        """Between two pieces of engine work: time and the caller may end the running job here."""
        self._drop_expired()
        run = self._running
        if run is None:
            return
        if run.cancel_detail is not None:
            raise JobStopped(Reason.CANCELED, run.cancel_detail)
        anytime = run.decoding and run.decided.policy is OverrunPolicy.ANYTIME
        if not anytime and self._pipeline.clock.now_ns() >= run.execution.job.deadline_ns:
            self._miss(run)
        run.look()
        # After the look, which takes its time.
        if anytime and not run.execution.step_fits():
            raise TimeUp

    def _miss(self, run: Run) -> None:
        """The running job's deadline has passed: let it run on (Skip-Next), or stop it."""
        if run.decided.policy is not OverrunPolicy.SKIP_NEXT:
            raise JobStopped(Reason.KILLED, "deadline: reached before the response was complete")
        if run.late:
            return
        with self._lock:
            run.late = True
            skipped = self._take_queue()
        self._announce(
            run.execution.overrun(Reason.LATE, "deadline: reached, the response will be late")
        )
        for job in skipped:
            detail = f"queued behind {run.execution.job.id!r}, which missed its deadline"
            self._never_started(job, Reason.SKIPPED, detail)

    def _drop_expired(self) -> None:
        """Announce the queued jobs whose deadline has come: they would be late from the start."""
        with self._lock:
            expired = self._queue.pop_expired(self._pipeline.clock.now_ns())
            self._ids.difference_update(job.id for job in expired)
        for job in expired:
            detail = "deadline: reached while the instruction waited in the queue"
            self._never_started(job, Reason.EXPIRED, detail)

    def _end(self, run: Run, outcome: Outcome) -> None:
        """Announce the run's terminal outcome, unless it has had one."""
        with self._lock:
            ended, run.ended = run.ended, True
        if not ended:
            self._announce(outcome)

    def _never_started(self, job: Job, reason: Reason, detail: str) -> None:
        self._announce(self._without_engine(job, reason, Stage.QUEUED, detail))

    def _announce(self, outcome: Outcome) -> None:
        try:
            self._emit(outcome)
        except Exception:
            _LOG.exception("%s: its outcome could not be announced", outcome.job.id)

    def _take_queue(self) -> list[Job]:
        jobs = self._queue.pop_all()
        self._ids.difference_update(job.id for job in jobs)
        return jobs

    def _without_engine(self, job: Job, reason: Reason, stage: Stage, detail: str) -> Overrun:
        """An overrun from what the queue knows of a job."""
        now_ns = self._pipeline.clock.now_ns()
        waited = seconds(now_ns - job.release_ns)
        slack = seconds(job.deadline_ns - now_ns)
        timing = Timing(queued=waited, total=waited, slack=slack)
        return Overrun(job=job, reason=reason, stage=stage, detail=detail, timing=timing)
