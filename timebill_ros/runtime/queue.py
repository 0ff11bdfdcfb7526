# SPDX-License-Identifier: Apache-2.0
"""The waiting jobs, earliest deadline first."""

from __future__ import annotations

import heapq

from timebill_ros.runtime.job import Job


class DeadlineQueue:
    """A bounded priority queue by deadline; equal deadlines keep their order of arrival.

    Not thread-safe: the server guards it with its own lock.
    """

    def __init__(self, capacity: int) -> None:
        """An empty queue for at most ``capacity`` waiting jobs."""
        self._capacity = capacity
        self._heap: list[tuple[int, int, Job]] = []
        self._arrivals = 0
        self._peak = 0

    def __len__(self) -> int:
        """Number of waiting jobs."""
        return len(self._heap)

    @property
    def full(self) -> bool:
        """Whether the next push has no room."""
        return len(self._heap) >= self._capacity

    def push(self, job: Job) -> None:
        """Add a job; the caller has checked that there is room."""
        heapq.heappush(self._heap, (job.deadline_ns, self._arrivals, job))
        self._arrivals += 1
        self._peak = max(self._peak, len(self._heap))

    def take_peak(self) -> int:
        """Most jobs that waited at once since this was asked last."""
        peak, self._peak = self._peak, len(self._heap)
        return peak

    def pop(self) -> Job | None:
        """Remove the most urgent job; None where nothing waits."""
        return heapq.heappop(self._heap)[2] if self._heap else None

    def remove(self, job: Job) -> bool:
        """Take out this very job; False where it does not wait here."""
        kept = [entry for entry in self._heap if entry[2] is not job]
        found = len(kept) < len(self._heap)
        if found:
            heapq.heapify(kept)
            self._heap = kept
        return found

    def pop_expired(self, now_ns: int) -> list[Job]:
        """Remove every job whose deadline has been reached, most urgent first."""
        expired = []
        while self._heap and self._heap[0][0] <= now_ns:
            expired.append(heapq.heappop(self._heap)[2])
        return expired

    def pop_released_after(self, instant_ns: int) -> list[Job]:
        """Remove every job whose release lies after ``instant_ns``, most urgent first."""
        entries = sorted(self._heap, key=lambda entry: entry[:2])
        # A sorted list is a heap.
        self._heap = [entry for entry in entries if entry[2].release_ns <= instant_ns]
        return [entry[2] for entry in entries if entry[2].release_ns > instant_ns]

    def pop_all(self) -> list[Job]:
        """Remove every job, most urgent first."""
        jobs = [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return jobs
