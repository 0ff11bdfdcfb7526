# SPDX-License-Identifier: Apache-2.0
"""Configuring beside the executor: what may be asked of a node that loads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from lifecycle_msgs.msg import State, Transition
from rclpy.parameter import Parameter

from timebill_ros.node.llm_node import LlmNode

from .bench import HELD, PATIENCE, Bench, Hold
from .test_guard import change, state
from .test_instruct_action import report

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN


class Held:
    """A node whose loading waits until it is let go or canceled."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, **overrides: object) -> None:
        self.bench = bench
        self.node: LlmNode = bench.node(**overrides)
        self.loading, self.go = threading.Event(), threading.Event()
        load, cancel = self.node.load, self.node.cancel_loading

        def held() -> None:
            self.loading.set()
            assert self.go.wait(PATIENCE)
            load()

        def canceled() -> None:
            cancel()
            self.go.set()

        monkeypatch.setattr(self.node, "load", held)
        monkeypatch.setattr(self.node, "cancel_loading", canceled)
        self.configured = bench.spinning(self.node.change_state(CONFIGURE))
        bench.until(self.loading.is_set)

    def outcome(self) -> bool:
        self.bench.until(self.configured.done)
        return self.configured.result()


@pytest.fixture
def held(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(bench, monkeypatch)
    yield held
    held.go.set()


def test_a_node_that_loads_answers_requests_and_tells_its_state(held: Held) -> None:
    bench = held.bench
    assert state(bench) == "configuring"
    said = len(bench.diagnostics)
    bench.until(lambda: len(bench.diagnostics) > said)
    for id in (CONFIGURE, Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE, 10, 12):
        assert not change(bench, id)
    assert not change(bench, label="transition_success")
    assert state(bench) == "configuring"
    held.go.set()
    assert held.outcome()
    assert state(bench) == "inactive"
    bench.until(lambda: any("configuring, " in a.status[0].message for a in bench.diagnostics))


@pytest.mark.parametrize("asked", [{"id": CLEANUP}, {"label": "cleanup"}])
def test_cleaning_up_cancels_a_configuration_and_the_node_can_be_configured(
    held: Held, asked: dict
) -> None:
    assert change(held.bench, **asked)
    assert not held.outcome()
    assert state(held.bench) == "unconfigured"
    assert held.bench.said("state").message == "unconfigured: nothing is loaded"
    assert change(held.bench, CONFIGURE)
    assert state(held.bench) == "inactive"


def test_what_ends_work_waits_for_the_engine_and_nothing_else_waits(bench: Bench) -> None:
    node, hold = bench.active(), Hold(bench)
    bench.send("held", budget=600.0, **report())
    bench.until(lambda: hold.steps >= HELD)
    deactivated = bench.spinning(node.change_state(Transition.TRANSITION_DEACTIVATE))
    bench.send("late")
    bench.until(lambda: bench.terminal() == ["late"])
    assert state(bench) == "active"
    assert not change(bench, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert not deactivated.done()
    hold.let_go()
    bench.until(deactivated.done)
    assert deactivated.result()
    assert state(bench) == "inactive"
    bench.until(lambda: sorted(bench.terminal()) == ["held", "late"])
    assert change(bench, CLEANUP)
    assert change(bench, CONFIGURE)


@pytest.mark.parametrize("asked", [{"id": SHUTDOWN}, {"label": "shutdown"}])
def test_shutting_down_cancels_a_configuration(held: Held, asked: dict) -> None:
    assert change(held.bench, **asked)
    assert not held.outcome()
    assert state(held.bench) == "finalized"


def test_parameters_that_are_being_loaded_are_fixed_and_live_ones_count(held: Held) -> None:
    [refused] = held.node.set_parameters([Parameter("chunk", value=64)])
    assert not refused.successful
    [taken] = held.node.set_parameters([Parameter("planner", value="vanilla")])
    assert taken.successful
    held.go.set()
    assert held.outcome()
    assert change(held.bench, Transition.TRANSITION_ACTIVATE)
    held.bench.connect()
    held.bench.send("a")
    held.bench.until(lambda: held.bench.terminal() == ["a"])
    assert held.bench.responses[0].plan.planner == "vanilla"


def test_a_node_that_ends_while_it_loads_holds_nothing(held: Held) -> None:
    held.node.release()
    assert not held.outcome()
    assert state(held.bench) == "unconfigured"
    topics = [publisher.topic_name for publisher in held.node.publishers]
    assert "/llm/output/response" not in topics


def test_a_second_node_of_the_name_is_told(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    first = bench.active()
    second = bench.node()
    told: list[str] = []

    def both_said() -> bool:
        told.extend(capfd.readouterr().err.splitlines())
        return sum("another node is named /llm: both take" in line for line in told) == 2

    bench.until(both_said)
    bench.until(lambda: bench.said("name").message == "another node is named /llm")
    second.destroy_node()
    bench.nodes.remove(second)
    bench.until(lambda: not any(s.name == "llm: name" for s in bench.diagnostics[-1].status))
    bench.send("a")
    bench.until(lambda: "a" in bench.terminal())
    assert first.get_fully_qualified_name() == "/llm"
    assert state(bench) == State(label="active").label
