# SPDX-License-Identifier: Apache-2.0
"""The node's clock as the runtime's."""

from __future__ import annotations

from rclpy.clock import Clock


class RosClock:
    """Instants of ROS time: the system's, or the simulation's under ``use_sim_time``."""

    def __init__(self, clock: Clock) -> None:
        """Wrap the node's clock."""
        self._clock = clock

    def now_ns(self) -> int:
        """The present instant of ROS time, ns."""
        return self._clock.now().nanoseconds
