# SPDX-License-Identifier: Apache-2.0
"""What is said of the node's health, heard by another node."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock_type import ClockType
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode

from timebill_ros.engine.request import Conversation
from timebill_ros.node.diagnostics import TOPIC, Diagnostics, ServerHealth, status_name
from timebill_ros.runtime.health import Level, Report
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Stage, Timing
from timebill_ros.runtime.settings import Settings

from ..runtime.simulated import Scene

NS_PER_S = 1_000_000_000
OUTCOME = Overrun(
    Job("a", Conversation("", "stop"), 0, 10), Reason.KILLED, Stage.PREFILL, "", Timing()
)


class Overheard(LifecycleNode):
    """A node whose diagnostics are kept instead of sent."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.said: list[list[DiagnosticStatus]] = []
        super().__init__(*arguments, **options)

    def create_publisher(self, kind: type, topic: str, *rest: object, **options: object) -> object:
        publisher = super().create_publisher(kind, topic, *rest, **options)
        if topic == TOPIC:
            publisher.publish = lambda message: self.said.append(message.status)
        return publisher


class Spoken:
    """Diagnostics of a node, and the statuses that they publish."""

    def __init__(self, context: Context) -> None:
        self.node = Overheard("llm", namespace="robot", context=context)
        self.diagnostics = Diagnostics(self.node)
        self.said = self.node.said
        self.timer, _ = self.node.timers

    @property
    def period_ns(self) -> int:
        return self.timer.timer_period_ns


@pytest.fixture
def spoken(ros_context: Context) -> Iterator[Spoken]:
    spoken = Spoken(ros_context)
    yield spoken
    spoken.diagnostics.destroy()
    spoken.node.destroy_node()


def test_texts_of_others_are_shown_harmless(spoken: Spoken) -> None:
    forged, shown = "a\x1b[2J\n[FATAL] b", r"a\x1b[2J\n[FATAL] b"
    reports = {"prediction": Report(Level.ERROR, forged, {forged: forged})}
    spoken.diagnostics.watch(lambda: reports, "cpu", 0.25)
    spoken.diagnostics.publish()
    [[_, prediction]] = spoken.said
    assert prediction.message == shown
    assert [(value.key, value.value) for value in prediction.values] == [(shown, shown)]
    spoken.diagnostics.failed(forged)
    assert spoken.said[-1][0].message == f"configuring failed: {shown}"


@pytest.mark.parametrize(
    ("state", "level", "message"),
    [
        ("unconfigured", DiagnosticStatus.WARN, "unconfigured: nothing is loaded"),
        ("inactive", DiagnosticStatus.WARN, "inactive: instructions are rejected"),
        ("active", DiagnosticStatus.OK, "active"),
        ("finalized", DiagnosticStatus.WARN, "finalized"),
    ],
)
def test_a_state_is_told_as_it_is_entered(
    spoken: Spoken, state: str, level: bytes, message: str
) -> None:
    spoken.diagnostics.enter(state)
    [[status]] = spoken.said
    assert (status.name, status.level, status.message) == ("robot/llm: state", level, message)


def test_configuring_is_told_at_once_and_its_failure_until_something_else(spoken: Spoken) -> None:
    spoken.diagnostics.configuring(0.456, "profiling")
    spoken.diagnostics.failed("model: there is none")
    spoken.diagnostics.publish()
    assert [(status.level, status.message) for [status] in spoken.said] == [
        (DiagnosticStatus.WARN, "configuring, 46%: profiling"),
        (DiagnosticStatus.ERROR, "configuring failed: model: there is none"),
        (DiagnosticStatus.ERROR, "configuring failed: model: there is none"),
    ]


def test_reports_follow_the_state_until_nobody_is_watched(spoken: Spoken) -> None:
    reports = {"queue": Report(Level.ERROR, "full", {"queue depth": "4"})}
    assert spoken.period_ns == NS_PER_S
    assert spoken.timer.clock.clock_type is ClockType.STEADY_TIME
    spoken.diagnostics.watch(lambda: reports, "cpu", 0.25)
    spoken.diagnostics.enter("active")
    [[state, queue]] = spoken.said
    assert spoken.period_ns == NS_PER_S // 4
    assert (queue.name, queue.level, queue.message) == (
        "robot/llm: queue",
        DiagnosticStatus.ERROR,
        "full",
    )
    assert [(value.key, value.value) for value in queue.values] == [("queue depth", "4")]
    assert state.hardware_id == queue.hardware_id == "cpu"
    spoken.diagnostics.unwatch()
    spoken.diagnostics.publish()
    [last] = spoken.said[-1]
    assert (last.message, last.hardware_id) == ("active", "")
    assert spoken.period_ns == NS_PER_S


@pytest.mark.parametrize(("node", "name"), [("/llm", "llm: queue"), ("/a/llm", "a/llm: queue")])
def test_a_status_is_named_without_the_leading_slash(node: str, name: str) -> None:
    assert status_name(node, "queue") == name


def test_a_server_s_reports_take_in_every_outcome_and_the_peak_once() -> None:
    health, scene = ServerHealth(), Scene(queue_capacity=4)
    for name in "abc":
        scene.server.submit(scene.job(name))
    health.add(OUTCOME)
    settings = Settings(queue_capacity=4)
    reports = health.reports(scene.server, settings)
    assert list(reports) == ["deadlines", "queue", "prediction", "memory"]
    assert reports["deadlines"].values["outcomes: killed"] == "1"
    assert reports["queue"].values == {
        "queue depth": "3",
        "queue peak": "3",
        "queue capacity": "4",
    }
    scene.run_submitted()
    assert health.reports(scene.server, settings)["queue"].values["queue peak"] == "3"
    assert health.reports(scene.server, settings)["queue"].values["queue peak"] == "0"


class Guarded:
    """A report's source that is asked by one thread at a time."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.added: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        assert self._lock.locked()
        self.added.append(outcome)

    def report(self, settings: Settings) -> Report:
        assert self._lock.locked()
        return Report(Level.OK, "")


def test_outcomes_may_come_while_reports_are_read() -> None:
    lock = threading.Lock()
    sources = Guarded(lock), Guarded(lock)
    health = ServerHealth(*sources, lock)
    health.add(OUTCOME)
    assert [source.added for source in sources] == [[OUTCOME], [OUTCOME]]
    health.reports(Scene().server, Settings())
    assert not lock.locked()
