# SPDX-License-Identifier: Apache-2.0
"""What the node says of its health on /diagnostics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.health import (
    DeadlineHealth,
    Level,
    PredictionHealth,
    Report,
    memory_now,
    memory_report,
    queue_report,
)
from timebill_ros.runtime.outcome import Outcome
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.settings import Settings

TOPIC = "/diagnostics"
_DEPTH = 10
_IDLE_PERIOD = 1.0  # s
_NAMES_PERIOD = 0.5  # s
# So many looks in a row must find a node of the same name.
_CERTAIN = 2
_LEVELS = {
    Level.OK: DiagnosticStatus.OK,
    Level.WARN: DiagnosticStatus.WARN,
    Level.ERROR: DiagnosticStatus.ERROR,
}
Reports = Mapping[str, Report]


class ServerHealth:
    """Reports on one server, by subject.

    The engine's thread tells it what happens, and the executor's thread reads the reports.
    """

    def __init__(
        self,
        deadlines: DeadlineHealth | None = None,
        predictions: PredictionHealth | None = None,
        lock: threading.Lock | None = None,
    ) -> None:
        """No outcome yet; ``deadlines`` and ``predictions`` are only touched under ``lock``."""
        self._lock = lock or threading.Lock()
        self._deadlines = deadlines or DeadlineHealth()
        self._predictions = predictions or PredictionHealth()

    def add(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        with self._lock:
            self._deadlines.add(outcome)
            self._predictions.add(outcome)

    def reports(self, server: Server, settings: Settings) -> Reports:
        """Each subject's report at this moment."""
        depth, peak = server.queue_depth, server.take_queue_peak()
        with self._lock:
            deadlines = self._deadlines.report(settings)
            prediction = self._predictions.report(settings)
        return {
            "deadlines": deadlines,
            "queue": queue_report(depth, peak, settings.queue_capacity),
            "prediction": prediction,
            "memory": memory_report(memory_now()),
        }


class Diagnostics:
    """Publishes the node's state, and the reports on its server while there is one.

    It speaks from the node's first moment on and whatever the state, so that silence means a dead
    node, and by a steady clock, so that a paused simulation is no silence.
    """

    def __init__(self, node: Node) -> None:
        """Publish every second that nothing is configured; ``watch`` sets another period."""
        self._node = node
        self._name_taken = 0
        self._state = _STATES["unconfigured"]
        self._hardware_id = ""
        self._reports: Callable[[], Reports] = dict
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, _DEPTH)
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_IDLE_PERIOD, self.publish, clock=self._clock)
        self._names = node.create_timer(_NAMES_PERIOD, self._look_for_namesakes, clock=self._clock)

    def enter(self, state: str) -> None:
        """The node is in this state of its lifecycle from now on."""
        self._say(_STATES[state])

    def configuring(self, share: float, doing: str) -> None:
        """Configuring has come this far; from any thread."""
        self._say(Report(Level.WARN, f"configuring, {share:.0%}: {doing}"))

    def failed(self, fault: str) -> None:
        """Configuring failed; nothing changes until somebody sees to it."""
        self._say(Report(Level.ERROR, f"configuring failed: {fault}"))

    def watch(self, reports: Callable[[], Reports], hardware_id: str, period: float) -> None:
        """Publish these reports as well, every ``period`` s."""
        self._reports, self._hardware_id = reports, hardware_id
        self._timer.timer_period_ns = round(period * NS_PER_S)

    def unwatch(self) -> None:
        """Nobody is left to report on."""
        self.watch(dict, "", _IDLE_PERIOD)

    def publish(self) -> None:
        """Publish everything now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        reports = {"state": self._state, **self._namesakes(), **self._reports()}
        array.status = [self._status(subject, report) for subject, report in reports.items()]
        self._publisher.publish(array)

    def destroy(self) -> None:
        """Remove topic and timer."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_timer(self._names)
        self._node.destroy_publisher(self._publisher)

    def _look_for_namesakes(self) -> None:
        """Note whether another node has this node's name, twice in a row.

        Once may be a node that is just leaving. One that was killed counts until the middleware
        gives it up, after some 20 s.
        """
        name = self._node.get_fully_qualified_name()
        taken = self._node.get_fully_qualified_node_names().count(name) > 1
        self._name_taken = self._name_taken + 1 if taken else 0
        if self._name_taken == _CERTAIN:
            self._node.get_logger().error(
                f"another node is named {name}: both take the same instructions and requests; "
                "give one another name, as in: --ros-args -r __node:=llm_2"
            )

    def _namesakes(self) -> Reports:
        """An error while another node has this node's name."""
        if self._name_taken < _CERTAIN:
            return {}
        name = self._node.get_fully_qualified_name()
        return {"name": Report(Level.ERROR, f"another node is named {name}")}

    def _say(self, state: Report) -> None:
        self._state = state
        self.publish()

    def _status(self, subject: str, report: Report) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=_LEVELS[report.level],
            name=status_name(self._node.get_fully_qualified_name(), subject),
            message=harmless_line(report.message),
            hardware_id=self._hardware_id,
            values=[
                KeyValue(key=harmless_line(key), value=harmless_line(value))
                for key, value in report.values.items()
            ],
        )


def status_name(node: str, subject: str) -> str:
    """Name of the status that tells of a subject of the node of this full name."""
    return f"{node.lstrip('/')}: {subject}"


_STATES = {
    "unconfigured": Report(Level.WARN, "unconfigured: nothing is loaded"),
    "inactive": Report(Level.WARN, "inactive: instructions are rejected"),
    "active": Report(Level.OK, "active"),
    "finalized": Report(Level.WARN, "finalized"),
}
