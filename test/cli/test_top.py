# SPDX-License-Identifier: Apache-2.0
"""Watching a stand-in for the node over real DDS, and a node that is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from timebill_ros.cli import top
from timebill_ros.client.session import Session, free_domain
from timebill_ros.msg import Overrun, Response

pytestmark = pytest.mark.e2e
TIMEOUT = 120.0


class StandIn:
    """Says, over and over, that all is well and that one instruction was answered, one late."""

    def __init__(self, domain: int) -> None:
        self._session = Session("llm", domain)
        node = self._session.node
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._responses = node.create_publisher(Response, "~/output/response", 10)
        self._overruns = node.create_publisher(Overrun, "~/output/overrun", 10)
        node.create_timer(0.1, self._speak)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        self._session.spin_until(self._ending.is_set, 600.0)
        self._session.close()

    def _speak(self) -> None:
        values = [KeyValue(key="queue depth", value="2"), KeyValue(key="queue capacity", value="7")]
        statuses = [
            DiagnosticStatus(level=DiagnosticStatus.OK, name="llm: state", message="active"),
            DiagnosticStatus(level=DiagnosticStatus.WARN, name="llm: queue", values=values),
        ]
        self._overruns.publish(Overrun(id="behind", reason=Overrun.LATE))
        self._responses.publish(Response(id="answered"))
        self._diagnostics.publish(DiagnosticArray(status=statuses))


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    domain = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    return domain


@pytest.fixture
def node(domain: int) -> Iterator[StandIn]:
    node = StandIn(domain)
    yield node
    node.close()


@pytest.mark.usefixtures("node")
def test_a_snapshot_is_printed_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert top.main(["--once", "--wait", str(TIMEOUT)]) == 0
    printed = capsys.readouterr().out
    assert "active" in printed
    assert "2 of 7 wait" in printed
    assert "last outcomes" not in printed


@pytest.mark.usefixtures("node")
def test_topics_are_remapped_as_ros_arguments_say(capsys: pytest.CaptureFixture[str]) -> None:
    """The stand-in is at its own names, where the command is told not to listen."""
    rule = ["--ros-args", "-r", "/diagnostics:=/elsewhere"]
    assert top.main(["--once", "--wait", "0.5", *rule]) == 1
    assert "said nothing on /diagnostics" in capsys.readouterr().err


def test_outcomes_are_taken_and_late_is_none(node: StandIn, domain: int) -> None:
    with Session("watcher", domain) as session:
        watch = top.Watch("/llm", session)
        assert watch.wait_for_node(TIMEOUT)
        heard = watch.dashboard.outcomes
        assert session.spin_until(lambda: len(heard) > 2, TIMEOUT)
        assert {record.id for record in heard} == {"answered"}
        assert watch.silence == 0.0


@pytest.mark.usefixtures("domain")
def test_an_absent_node_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert top.main(["--node", "robot/llm", "--wait", "0.3"]) == 1
    assert "/robot/llm said nothing on /diagnostics for 0.3 s" in capsys.readouterr().err


@pytest.mark.usefixtures("node")
def test_an_interrupt_ends_the_watching(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    updates = []

    def listen(self: top.Watch, duration: float) -> None:
        updates.append(duration)
        if len(updates) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(top.Watch, "listen", listen)
    assert top.main(["--period", "0.2"]) == 0
    assert updates == [0.2, 0.2, 0.2]
    assert capsys.readouterr().out.count("last outcomes") == 3
