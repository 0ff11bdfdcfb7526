# SPDX-License-Identifier: Apache-2.0
"""ROS time under ``use_sim_time``, set as /clock sets it."""

from __future__ import annotations

import pytest
from rclpy.clock import ROSClock
from rclpy.time import Time
from rclpy.time_source import TimeSource

from timebill_ros.node import ros_clock
from timebill_ros.node.ros_clock import RosClock
from timebill_ros.runtime.clock import NS_PER_S


@pytest.fixture
def simulation() -> ROSClock:
    clock = ROSClock()
    source = TimeSource(node=None)
    source.attach_clock(clock)
    source.ros_time_is_active = True
    return clock


def set_to(simulation: ROSClock, seconds: float) -> None:
    simulation.set_ros_time_override(
        Time(nanoseconds=round(seconds * NS_PER_S), clock_type=simulation.clock_type)
    )


def test_the_rate_follows_the_clock(simulation: ROSClock, monkeypatch: pytest.MonkeyPatch) -> None:
    real_ns = iter(range(0, 10 * NS_PER_S, NS_PER_S // 10))
    monkeypatch.setattr(ros_clock.time, "monotonic_ns", lambda: next(real_ns))
    clock = RosClock(simulation)
    clock.follow(lambda by: None)
    assert clock.rate == 1.0
    for n in range(10):
        set_to(simulation, 100.0 + 0.3 * n)
    assert clock.rate == pytest.approx(3.0)
    assert clock.now_ns() == round(102.7 * NS_PER_S)
    clock.close()


def test_only_jumps_back_are_reported_until_it_is_closed(simulation: ROSClock) -> None:
    rewinds: list[float] = []
    clock = RosClock(simulation)
    clock.follow(rewinds.append)
    for instant in (50.0, 60.0, 60.0, 55.5, 70.0):
        set_to(simulation, instant)
    assert rewinds == [4.5]
    clock.close()
    set_to(simulation, 1.0)
    assert rewinds == [4.5]
