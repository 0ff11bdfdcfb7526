# SPDX-License-Identifier: Apache-2.0
"""The node's clock as the runtime's."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.clock import Clock, JumpHandle, JumpThreshold, TimeJump
from rclpy.duration import Duration

from timebill_ros.runtime.clock import ClockRate, seconds

# Every change of simulated time, forwards and backwards.
_ANY_CHANGE = JumpThreshold(
    min_forward=Duration(nanoseconds=1),
    min_backward=Duration(nanoseconds=-1),
    on_clock_change=False,
)


class RosClock:
    """Instants of ROS time: the system's, or the simulation's under ``use_sim_time``.

    Simulated time moves with the messages on /clock, at any rate, with pauses and back to where it
    was; each of them tells the rate, and those that set time back are reported.
    """

    def __init__(self, clock: Clock) -> None:
        """Wrap the node's clock."""
        self._clock = clock
        self._rate = ClockRate()
        self._on_rewind: Callable[[float], None] = lambda _: None
        self._changes: JumpHandle | None = None

    @property
    def rate(self) -> float:
        """Its seconds per second of execution; 1 until simulated time is known to run otherwise."""
        return self._rate.value

    def now_ns(self) -> int:
        """The present instant of ROS time, ns."""
        return self._clock.now().nanoseconds

    def follow(self, on_rewind: Callable[[float], None]) -> None:
        """Measure the rate from now on, and call ``on_rewind`` with the s that time was set back.

        The system's own time is never reported: only /clock sets it.
        """
        self._on_rewind = on_rewind
        self._changes = self._clock.create_jump_callback(_ANY_CHANGE, post_callback=self._changed)

    def close(self) -> None:
        """Follow it no longer."""
        if self._changes is not None:
            self._changes.unregister()
            self._changes = None

    def _changed(self, change: TimeJump) -> None:
        self._rate.sample(self.now_ns(), time.monotonic_ns())
        delta_ns = change.delta.nanoseconds
        if delta_ns < 0:
            self._on_rewind(-seconds(delta_ns))
