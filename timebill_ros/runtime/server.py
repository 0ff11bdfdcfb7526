# SPDX-License-Identifier: Apache-2.0
"""Takes jobs, runs the most urgent one, and sees that each ends with exactly one outcome."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from timebill_ros.runtime.admission import Prepare, PreparedJob, attempt
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.engine_chain import EngineChain
from timebill_ros.runtime.execution import Execution
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import (
    JobStopped,
    Observer,
    Outcome,
    Overrun,
    Reason,
    Stage,
    overrun_without_engine,
)
from timebill_ros.runtime.policy import Decisions
from timebill_ros.runtime.queue import DeadlineQueue
from timebill_ros.runtime.server_parts import ServerParts

_LOG = logging.getLogger(__name__)


class Server:
    """The one place that knows which jobs are in flight.

    ``submit`` and the cancelling methods may be called from any thread and return at once.
    ``prepare_next`` may be called from several, ``serve_next`` from the one that owns the engine.

    A job is in flight from its submission until its terminal outcome. It waits in the queue, or an
    execution has it, never both, and whoever takes it from there announces its outcome: that is
    what makes the outcome unique. ``emit`` is called with every outcome, on whichever thread it
    arises, after the job's id and place are free again, and never while the server's lock is held.
    What ``emit`` raises is logged, and costs that outcome alone.
    """

    def __init__(
        self,
        parts: ServerParts,
        decided: Decisions,
        *,
        prepare: Prepare,
        queue_capacity: int,
        emit: Callable[[Outcome], None],
        observe: Callable[[Job], Observer | None] = lambda _: None,
        chain: EngineChain | None = None,
    ) -> None:
        """An idle server that accepts jobs.

        Args:
            parts: what jobs run on.
            decided: how they are planned, and what their deadlines mean.
            prepare: makes a waiting job ready to run.
            queue_capacity: most jobs that wait.
            emit: see the class.
            observe: says who watches a job that starts.
            chain: the engine of ``parts`` and those after it; None for it alone.
        """
        self._parts = parts
        self._decided = decided
        self._prepare = prepare
        self._emit = emit
        self._observe = observe
        self._capacity = queue_capacity
        # Re-entrant: under virtual time an arrival may be submitted from inside the engine's work.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue = DeadlineQueue(queue_capacity)
        self._ids: set[str] = set()
        self._chain = chain or EngineChain(parts)
        self._job: Job | None = None  # what an engine has, and how it runs at present:
        self._running: Execution | None = None
        self._cancel_detail: str | None = None  # why the running job is to stop
        self._unannounced = 0  # jobs that have left, and whose outcome is still on its way
        self._closed_detail: str | None = None

    def submit(self, job: Job) -> None:
        """Queue the job, or emit at once why not: EXPIRED, REJECTED or SKIPPED.

        A full queue gives up its least urgent job for a more urgent one.
        """
        displaced: Job | None = None
        self._drop_expired()  # which frees places and ids
        with self._changed:
            refusal = self._refusal(job)
            if refusal is None and self._queue.full:
                displaced = self._queue.pop_less_urgent_than(job)
                if displaced is None:
                    refusal = Reason.REJECTED, f"queue: full with {self._capacity} instructions"
                else:
                    self._leave([displaced])
            if refusal is None:
                self._queue.push(job)
                self._ids.add(job.id)
                self._changed.notify_all()
        if displaced is not None:
            detail = f"queue: full with {self._capacity} instructions, displaced by the more urgent"
            self._announce_never_started(displaced, Reason.REJECTED, f"{detail} {job.id!r}")
        if refusal is not None:
            self._tell(self._chain.last_resort(self._never_started(job, *refusal)))

    def reject(self, job: Job, detail: str) -> None:
        """Emit REJECTED for a job that was found wanting before it could be submitted."""
        self._tell(self._never_started(job, Reason.REJECTED, detail))

    def wait_for_unprepared(self, timeout: float, *, light_only: bool = False) -> None:
        """Return once a job waits to be prepared, after at most ``timeout`` s."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue.has_unprepared(light_only=light_only), timeout
            )

    def prepare_next(self, *, light_only: bool = False) -> bool:
        """Prepare the most urgent job that nobody has prepared; False where none waits.

        With ``light_only`` only one that is prepared in a moment: a thread that does no other work
        keeps the heavy ones from delaying the light ones.
        """
        self._drop_expired()
        with self._lock:
            job = self._queue.take_unprepared(light_only=light_only)
        if job is None:
            return False
        tried = attempt(self._prepare, job)
        with self._changed:
            if isinstance(tried, PreparedJob):
                self._queue.keep_prepared(tried)
                self._changed.notify_all()
                return True
            if not self._queue.remove(job):
                return True  # canceled or expired meanwhile
            self._leave([job])
        self._announce_never_started(job, tried.reason, tried.detail)
        return True

    def wait_for_prepared(self, timeout: float) -> None:
        """Return once a job is ready to run or has expired, after at most ``timeout`` s."""
        with self._changed:
            earliest_ns = self._queue.next_expiry_ns
            if earliest_ns is not None:
                clock = self._parts.clock
                timeout = min(timeout, seconds(earliest_ns - clock.now_ns()) / clock.rate)
            self._changed.wait_for(lambda: self._queue.has_prepared, max(0.0, timeout))

    def serve_next(self) -> bool:
        """Run the most urgent job that is ready, to its outcome; False where none is."""
        self._drop_expired()
        with self._lock:
            prepared = self._queue.pop_prepared()
            if prepared is None:
                return False
            job = prepared.job
            self._cancel_detail = None
            self._job = job
        try:
            outcome = self._chain.run(
                prepared,
                self._decided,
                canceled=self._attend,
                tell_late=self._skip_behind,
                watch=self._watch,
                observe=self._observe,
            )
        except JobStopped as stop:
            outcome = self._never_started(job, stop.reason, stop.detail)
        except Exception as failure:  # noqa: BLE001 - the engine's thread goes on with the next job
            _LOG.exception("%s could not be run", job.id)
            told = f"{type(failure).__name__}: {failure}"
            outcome = self._never_started(job, Reason.FAILED, told)
        outcome = self._chain.last_resort(outcome)
        with self._lock:
            self._running = None
            if self._job is not job:
                return True  # abandoned: its outcome was announced without it
            self._job = None
            self._leave([job])
        self._announce(outcome)
        return True

    def decide(self, decided: Decisions) -> None:
        """Plan the next jobs otherwise, and treat their deadlines otherwise."""
        self._decided = decided

    def cancel(self, job: Job, detail: str) -> bool:
        """Emit CANCELED if it is queued; stop it within one piece of engine work if it runs.

        Takes the job itself, as its id may by now be that of a later one. False where it has
        ended. A job that ends by itself at this moment has that outcome, and no other.
        """
        with self._lock:
            if self._queue.remove(job):
                self._leave([job])
            elif self._job is job:
                self._cancel_detail = detail
                return True
            else:
                return False
        self._announce_never_started(job, Reason.CANCELED, detail)
        return True

    def cancel_all(self, detail: str) -> None:
        """Emit CANCELED for what is queued; stop what runs within one piece of engine work."""
        with self._lock:
            canceled = self._queue.pop_all()
            self._leave(canceled)
            if self._job is not None:
                self._cancel_detail = detail
        for job in canceled:
            self._announce_never_started(job, Reason.CANCELED, detail)

    def rewind(self, detail: str) -> None:
        """The deadlines' clock was set back: emit CANCELED for what was released after its now.

        What such jobs ask about has not happened yet, or will happen again with the same ids.
        """
        now_ns = self._parts.clock.now_ns()
        with self._lock:
            canceled = self._queue.pop_released_after(now_ns)
            self._leave(canceled)
            if self._job is not None and self._job.release_ns > now_ns:
                self._cancel_detail = detail
        for job in canceled:
            self._announce_never_started(job, Reason.CANCELED, detail)

    def abandon(self, detail: str) -> None:
        """Emit CANCELED for what runs without waiting for its engine; its outcome is void."""
        with self._lock:
            job, self._job = self._job, None
            if job is None:
                return
            stage = Stage.QUEUED if self._running is None else self._running.stage
            self._running, self._cancel_detail = None, detail
            self._leave([job])
        self._announce(self._never_started(job, Reason.CANCELED, detail, stage))

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
        """Whether every job has had its outcome announced, after at most ``timeout`` s."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._ids and self._unannounced == 0, timeout)

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
        """Why this job is not taken, whether or not there is room; None where it is."""
        overdue_ns = self._parts.clock.now_ns() - job.deadline_ns
        if self._closed_detail is not None:
            return Reason.REJECTED, self._closed_detail
        if job.id in self._ids:
            return Reason.REJECTED, f"id: {job.id!r} is already in flight"
        if overdue_ns >= 0:
            return Reason.EXPIRED, f"deadline: passed {seconds(overdue_ns):.3f} s before arrival"
        if self._running is not None and self._running.late:
            return Reason.SKIPPED, f"arrived while {self._running.job.id!r} ran past its deadline"
        return None

    def _watch(self, execution: Execution) -> bool:
        """The job runs so from now on; False where it was abandoned."""
        with self._lock:
            if self._job is execution.job:
                self._running = execution
            return self._job is execution.job

    def _attend(self) -> str | None:
        """Between two pieces of engine work: look after the queue; why the job is to stop."""
        self._drop_expired()
        return self._cancel_detail

    def _skip_behind(self, late: Overrun) -> None:
        """The running job is late, and will end: tell so, and skip what waits behind it."""
        with self._lock:
            skipped = self._queue.pop_all()
            self._leave(skipped)
        self._tell(late)
        detail = f"queued behind {late.job.id!r}, which missed its deadline"
        for job in skipped:
            self._announce_never_started(job, Reason.SKIPPED, detail)

    def _drop_expired(self) -> None:
        """Announce the queued jobs whose deadline has come: they would be late from the start."""
        with self._lock:
            expired = self._queue.pop_expired(self._parts.clock.now_ns())
            self._leave(expired)
        for job in expired:
            detail = "deadline: reached while the instruction waited in the queue"
            self._announce_never_started(job, Reason.EXPIRED, detail)

    def _leave(self, jobs: Iterable[Job]) -> None:
        """These are no longer in flight; the caller holds the lock and announces each of them."""
        for job in jobs:
            self._ids.discard(job.id)
            self._unannounced += 1

    def _announce_never_started(self, job: Job, reason: Reason, detail: str) -> None:
        self._announce(self._chain.last_resort(self._never_started(job, reason, detail)))

    def _announce(self, outcome: Outcome) -> None:
        """Tell the terminal outcome of a job that has left."""
        self._tell(outcome)
        with self._changed:
            self._unannounced -= 1
            self._changed.notify_all()

    def _tell(self, outcome: Outcome) -> None:
        try:
            self._emit(outcome)
        except Exception:  # noqa: BLE001 - one outcome that is not told must not cost another
            _LOG.exception("%s: its outcome could not be announced", outcome.job.id)

    def _never_started(
        self, job: Job, reason: Reason, detail: str, stage: Stage = Stage.QUEUED
    ) -> Overrun:
        return overrun_without_engine(job, reason, stage, detail, self._parts.clock.now_ns())
