# SPDX-License-Identifier: Apache-2.0
"""The waiting jobs by deadline, and how far each is prepared."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import takewhile

from timebill_ros.runtime.admission import PreparedJob, is_light
from timebill_ros.runtime.job import CANNED_NS, Job

# Only this many of the most urgent jobs are prepared: a job far down the queue will wait anyway,
# and may never run.
_LOOK_AHEAD = 32


@dataclass
class _Waiting:
    """One waiting job.

    Attributes:
        taken: somebody prepares it, or has done so.
        prepared: what came of it; None until it is there.
    """

    job: Job
    taken: bool = False
    prepared: PreparedJob | None = None


# (-deadline, -arrival, job): in ascending order, so that the most urgent one is the last.
_Entry = tuple[int, int, _Waiting]


class DeadlineQueue:
    """A bounded priority queue by deadline; equal deadlines keep their order of arrival.

    Not thread-safe: the server guards it with its own lock.
    """

    def __init__(self, capacity: int) -> None:
        """An empty queue for at most ``capacity`` waiting jobs."""
        self._capacity = capacity
        self._entries: list[_Entry] = []
        self._arrivals = 0
        self._peak = 0

    def __len__(self) -> int:
        """Number of waiting jobs."""
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether the next push has no room."""
        return len(self._entries) >= self._capacity

    @property
    def next_expiry_ns(self) -> int | None:
        """The instant at which the next job expires here; None where nothing waits."""
        if not self._entries:
            return None
        latest = -self._entries[-1][0] + CANNED_NS
        return min(job.answer_by_ns for job in self._due(latest))

    def push(self, job: Job) -> None:
        """Add a job; the caller has checked that there is room."""
        insort(self._entries, (-job.deadline_ns, -self._arrivals, _Waiting(job)))
        self._arrivals += 1
        self._peak = max(self._peak, len(self._entries))

    def take_peak(self) -> int:
        """Most jobs that waited at once since this was asked last."""
        peak, self._peak = self._peak, len(self._entries)
        return peak

    def take_unprepared(self, *, light_only: bool = False) -> Job | None:
        """The most urgent job that nobody has prepared, for the caller to do so; it stays here.

        With ``light_only`` only one that is prepared in a moment.
        """
        waiting = self._unprepared(light_only)
        if waiting is None:
            return None
        waiting.taken = True
        return waiting.job

    def has_unprepared(self, *, light_only: bool = False) -> bool:
        """Whether ``take_unprepared`` would give a job."""
        return self._unprepared(light_only) is not None

    def keep_prepared(self, prepared: PreparedJob) -> None:
        """The job is ready to run; one that does not wait here any more is forgotten."""
        index = self._index_of(prepared.job)
        if index is not None:
            self._entries[index][2].prepared = prepared

    @property
    def has_prepared(self) -> bool:
        """Whether ``pop_prepared`` would give a job."""
        return self._last_prepared() is not None

    def pop_prepared(self) -> PreparedJob | None:
        """Remove the most urgent job that is ready to run; None where none is."""
        index = self._last_prepared()
        return None if index is None else self._entries.pop(index)[2].prepared

    def pop_less_urgent_than(self, job: Job) -> Job | None:
        """Remove the least urgent job, if ``job`` is more urgent than that; None otherwise."""
        if self._entries and -self._entries[0][0] > job.deadline_ns:
            return self._entries.pop(0)[2].job
        return None

    def remove(self, job: Job) -> bool:
        """Take out this very job; False where it does not wait here."""
        index = self._index_of(job)
        if index is not None:
            del self._entries[index]
        return index is not None

    def pop_expired(self, now_ns: int) -> list[Job]:
        """Remove every job that must be answered by now, its deadline's moment, most urgent first.

        That moment is a little before the deadline where the job's own text is the answer.
        """
        expired = [job for job in self._due(now_ns + CANNED_NS) if job.answer_by_ns <= now_ns]
        for job in expired:
            self.remove(job)
        return expired

    def pop_released_after(self, instant_ns: int) -> list[Job]:
        """Remove every job whose release lies after ``instant_ns``, most urgent first."""
        jobs = [w.job for _, _, w in reversed(self._entries) if w.job.release_ns > instant_ns]
        self._entries = [e for e in self._entries if e[2].job.release_ns <= instant_ns]
        return jobs

    def pop_all(self) -> list[Job]:
        """Remove every job, most urgent first."""
        jobs = [waiting.job for _, _, waiting in reversed(self._entries)]
        self._entries.clear()
        return jobs

    def _due(self, instant_ns: int) -> list[Job]:
        """The jobs whose deadline is at ``instant_ns`` or before, most urgent first."""
        due = takewhile(lambda entry: -entry[0] <= instant_ns, reversed(self._entries))
        return [waiting.job for _, _, waiting in due]

    def _unprepared(self, light_only: bool) -> _Waiting | None:
        for _, _, waiting in reversed(self._entries[-_LOOK_AHEAD:]):
            if not waiting.taken and (is_light(waiting.job) or not light_only):
                return waiting
        return None

    def _index_of(self, job: Job) -> int | None:
        """Where this very job waits; None where it does not."""
        entries = self._entries
        index = bisect_left(entries, -job.deadline_ns, key=lambda entry: entry[0])
        while index < len(entries) and entries[index][0] == -job.deadline_ns:
            if entries[index][2].job is job:
                return index
            index += 1
        return None

    def _last_prepared(self) -> int | None:
        """Where the most urgent job waits that is ready to run; None where none is."""
        for index in range(len(self._entries) - 1, -1, -1):
            if self._entries[index][2].prepared is not None:
                return index
        return None
