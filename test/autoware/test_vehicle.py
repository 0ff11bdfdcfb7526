# SPDX-License-Identifier: Apache-2.0
"""What comes between a command and the answer of its service, which another executor gives."""

from __future__ import annotations

from pathlib import Path

from rclpy.context import Context
from rclpy.parameter import Parameter

from timebill_ros.autoware.refusal import Refusal

from .fake_autoware import AUTONOMOUS, CHANGE, CLEAR, DEPOT, SET, STOP, TO_DEPOT, FakeAutoware


def test_a_route_that_waits_is_not_set_once_the_adapter_is_disabled(
    interfaces: Path | None, ros_context: Context
) -> None:
    """The service of another executor answers when that is spun: after the switch."""
    autoware = FakeAutoware(ros_context, absent=(CLEAR,))
    slow = FakeAutoware(ros_context, absent=(STOP, AUTONOMOUS, SET, CHANGE), limited=False)
    autoware.route("ARRIVED")
    adapter = autoware.adapter(ros_context, **DEPOT)
    autoware.reaches(adapter, CLEAR)
    autoware.until(lambda: adapter.vehicle.route_state is not None)
    autoware.answer("drive/1", TO_DEPOT)
    autoware.until(lambda: adapter.obeyed)
    adapter.set_parameters([Parameter("enabled", value=False)])
    slow.until(lambda: slow.called == [CLEAR])
    autoware.until(lambda: autoware.count(Refusal.SUPERSEDED) == 1)
    assert autoware.called == []
    slow.close()
    autoware.close()


def test_a_limit_that_was_asked_for_after_resuming_stands(
    interfaces: Path | None, ros_context: Context
) -> None:
    """The service of another executor answers when that is spun: after the limit."""
    autoware = FakeAutoware(ros_context, absent=(AUTONOMOUS,))
    slow = FakeAutoware(ros_context, absent=(STOP, SET, CHANGE, CLEAR), limited=False)
    adapter = autoware.adapter(ros_context)
    autoware.reaches(adapter, AUTONOMOUS)
    autoware.answer("drive/1", '{"command": "resume"}', age=0.2)
    autoware.answer("drive/2", '{"command": "velocity_limit", "velocity_mps": 5}')
    autoware.until(lambda: autoware.limits)
    slow.until(lambda: slow.called == [AUTONOMOUS])
    autoware.until(lambda: autoware.count("done") == 2)
    assert not autoware.clears
    slow.close()
    autoware.close()


def test_a_service_that_does_not_answer_holds_nothing_up(
    interfaces: Path | None, ros_context: Context
) -> None:
    """A client sees the service of another executor, which nobody spins."""
    autoware = FakeAutoware(ros_context, absent=(AUTONOMOUS,))
    silent = FakeAutoware(ros_context, absent=(STOP, SET, CHANGE, CLEAR), limited=False)
    adapter = autoware.adapter(ros_context, service_timeout=2.0)
    autoware.reaches(adapter, AUTONOMOUS)
    autoware.answer("drive/1", '{"command": "resume"}', age=0.2)
    autoware.answer("drive/2", '{"command": "stop"}')
    autoware.until(lambda: autoware.called == [STOP])
    autoware.until(lambda: autoware.count(Refusal.TIMEOUT) == 1)
    assert not autoware.clears
    silent.close()
    autoware.close()
