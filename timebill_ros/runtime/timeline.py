# SPDX-License-Identifier: Apache-2.0
"""When each stage of one request began and ended."""

from __future__ import annotations

from timebill_ros.runtime.clock import Clock, seconds
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Timing


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
