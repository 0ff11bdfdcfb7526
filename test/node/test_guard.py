# SPDX-License-Identifier: Apache-2.0
"""Requests and messages that rclpy's own callbacks do not bear: answered, and the node lives on."""

from __future__ import annotations

from typing import Any

import pytest
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.node import Node
from rclpy.waitable import NumberOfEntities, Waitable
from rosgraph_msgs.msg import Clock
from type_description_interfaces.srv import GetTypeDescription

from .bench import SUCCESS, Bench

FORGED = "a\x1b[2J\n[FATAL] forged"


def ask(bench: Bench, kind: Any, name: str, **fields: object) -> Any:
    """The answer to a request to the node."""
    client = bench.client.create_client(kind, f"/llm/{name}")
    bench.until(client.service_is_ready)
    answer = client.call_async(kind.Request(**fields))
    bench.until(answer.done)
    bench.client.destroy_client(client)
    return answer.result()


def change(bench: Bench, id: int = 0, label: str = "") -> bool:
    transition = Transition(id=id, label=label)
    return ask(bench, ChangeState, "change_state", transition=transition).success


def state(bench: Bench) -> str:
    return ask(bench, GetState, "get_state").current_state.label


@pytest.mark.parametrize("steps", [[], ["configure"], ["configure", "activate"]])
def test_a_transition_that_does_not_fit_the_state_is_refused(
    bench: Bench, steps: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    node = bench.node()
    for step in steps:
        assert getattr(node, f"trigger_{step}")() == SUCCESS
    before = state(bench)
    fitting = {
        "unconfigured": {Transition.TRANSITION_CONFIGURE, 5},
        "inactive": {Transition.TRANSITION_CLEANUP, Transition.TRANSITION_ACTIVATE, 6},
        "active": {Transition.TRANSITION_DEACTIVATE, 7},
    }[before]
    for id in {*range(16), *range(20, 63, 10), 97, 98, 99, 255} - fitting:
        assert not change(bench, id)
        assert state(bench) == before
    for label in ("transition_success", "create", "a\n[FATAL]"):
        assert not change(bench, label=label)
        assert state(bench) == before
    log = capfd.readouterr().err
    assert f"now: it is {before}" in log
    assert r"'a\n[FATAL]'" in log


def set_each(bench: Bench, *parameters: Parameter) -> list[Any]:
    return ask(bench, SetParameters, "set_parameters", parameters=list(parameters)).results


def parameter(name: str, type: int, **value: object) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=type, **value))


def test_a_parameter_of_an_unknown_type_is_refused_and_costs_no_other(bench: Bench) -> None:
    node = bench.node()
    first, bad, unset, last = set_each(
        bench,
        parameter("pessimism", 3, double_value=2.0),
        parameter("pessimism", 200),
        parameter("pessimism", 0),
        parameter("risk", 3, double_value=0.25),
    )
    assert (first.successful, last.successful) == (True, True)
    assert not bad.successful
    assert bad.reason.startswith("pessimism: ")
    assert "200" in bad.reason
    assert not unset.successful
    assert node.get_parameter("pessimism").value == 2.0
    assert node.get_parameter("risk").value == 0.25
    together = [parameter("risk", 3, double_value=0.5), parameter("pessimism", 255)]
    result = ask(
        bench, SetParametersAtomically, "set_parameters_atomically", parameters=together
    ).result
    assert not result.successful
    assert "255" in result.reason
    assert node.get_parameter("risk").value == 0.25


def test_every_parameter_can_be_set_to_what_it_is(bench: Bench) -> None:
    """So that a dump can be loaded; rclpy refuses those that are read-only, one of its own too."""
    node = bench.active()
    names = ask(bench, ListParameters, "list_parameters").result.names
    values = ask(bench, GetParameters, "get_parameters", names=names).values
    assert node.describe_parameter("start_type_description_service").read_only
    dumped = [Parameter(name=name, value=value) for name, value in zip(names, values, strict=True)]
    assert [result.reason for result in set_each(bench, *dumped) if not result.successful] == []
    [refused] = set_each(bench, parameter("start_type_description_service", 1, bool_value=False))
    assert not refused.successful


def test_a_name_or_value_of_others_forges_no_line(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    node = bench.node(model=f"{FORGED}")
    set_each(bench, parameter(FORGED, 4, string_value="x"), parameter(FORGED, 200))
    assert not change(bench, Transition.TRANSITION_CONFIGURE)
    results = set_each(
        bench, parameter("device", 4, string_value=FORGED), parameter("risk", 3, double_value=9.0)
    )
    log = capfd.readouterr().err
    assert node.get_logger().name == "llm"
    assert r"[FATAL] forged" in log
    for text in (log, *(result.reason for result in results)):
        assert not any(line.startswith("[FATAL]") for line in text.splitlines())
        assert "\x1b[2J" not in text


def test_requests_for_what_there_is_not_are_answered(bench: Bench) -> None:
    bench.node()
    names = ["", "none", "\n", "a" * 10_000]
    ask(bench, GetParameters, "get_parameters", names=names)
    ask(bench, GetParameterTypes, "get_parameter_types", names=names)
    ask(bench, DescribeParameters, "describe_parameters", names=names)
    ask(bench, ListParameters, "list_parameters", prefixes=names, depth=2**64 - 1)
    assert not ask(
        bench, GetTypeDescription, "get_type_description", type_name="none/msg/None"
    ).successful
    assert state(bench) == "unconfigured"


def test_a_clock_before_the_epoch_is_told_and_passed_over(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    node = bench.node(use_sim_time=True)
    clock = bench.client.create_publisher(Clock, "/clock", 10)
    bench.until(lambda: clock.get_subscription_count() == 1)

    def told() -> bool:
        clock.publish(Clock(clock=Time(sec=-1)))
        return "a callback of /clock failed" in capfd.readouterr().err

    bench.until(told)
    clock.publish(Clock(clock=Time(sec=7)))
    bench.until(lambda: node.get_clock().now().nanoseconds == 7 * 10**9)
    assert state(bench) == "unconfigured"


class Untakable(Waitable):
    """Is ready once, and what then would be taken cannot be."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.default_callback_group)
        self._condition = node.create_guard_condition(lambda: None)
        self._condition.trigger()
        self.taken = 0
        node.add_waitable(self)

    def is_ready(self, wait_set: Any) -> bool:
        return self.taken == 0

    def take_data(self) -> None:
        self.taken += 1
        raise RuntimeError("it cannot be taken")

    async def execute(self, taken_data: None) -> None:
        raise AssertionError

    def get_num_entities(self) -> NumberOfEntities:
        return NumberOfEntities()

    def add_to_wait_set(self, wait_set: Any) -> None:
        pass


def test_what_cannot_be_taken_stops_nothing_else_of_its_group(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    untakable = Untakable(bench.node())
    bench.until(lambda: untakable.taken == 1)
    assert state(bench) == "unconfigured"
    set_each(bench, parameter("risk", 3, double_value=0.25))
    assert "RuntimeError: it cannot be taken" in capfd.readouterr().err
