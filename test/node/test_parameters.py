# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message

from timebill_ros.budget.planners import PLANNERS
from timebill_ros.engine.eviction import EVICTION_METHODS
from timebill_ros.node.parameter_specs import SPECS, Range, Spec
from timebill_ros.node.parameters import Parameters, parameter_descriptor
from timebill_ros.runtime.settings import Settings

Declare = Callable[..., tuple[Node, Parameters]]


@pytest.fixture
def declare(ros_context: Context) -> Iterator[Declare]:
    """Declares the parameters on a node with the given overrides."""
    nodes = []

    def make(**overrides: object) -> tuple[Node, Parameters]:
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        node = Node("parameters", context=ros_context, parameter_overrides=given)
        nodes.append(node)
        return node, Parameters(node)

    yield make
    for node in nodes:
        node.destroy_node()


def test_without_overrides_the_settings_are_the_defaults(declare: Declare) -> None:
    assert declare()[1].read() == Settings()


def test_every_setting_is_described_and_nothing_else_is(declare: Declare) -> None:
    assert set(SPECS) == {f.name for f in fields(Settings)}
    node, _ = declare()
    for name in SPECS:
        assert node.describe_parameter(name).description


def test_the_eviction_methods_are_named_as_the_engine_knows_them() -> None:
    assert SPECS["eviction_method"].choices == tuple(EVICTION_METHODS)
    assert all(f"({name})" in SPECS["eviction_method"].description for name in EVICTION_METHODS)


def test_numbers_have_ranges_that_ros_enforces(declare: Declare) -> None:
    node, _ = declare()
    for field in fields(Settings):
        value = getattr(Settings(), field.name)
        descriptor = node.describe_parameter(field.name)
        if isinstance(value, float):
            assert descriptor.floating_point_range, field.name
        elif type(value) is int:
            assert descriptor.integer_range, field.name
    [result] = node.set_parameters([Parameter("pessimism", value=0.5)])
    assert not result.successful
    assert "pessimism" in result.reason


def test_whole_numbers_as_bounds_arrive_as_they_are() -> None:
    sent = serialize_message(parameter_descriptor("budget", Spec("s", Range(1, 60)), 2.0))
    [bounds] = deserialize_message(sent, ParameterDescriptor).floating_point_range
    assert (bounds.from_value, bounds.to_value) == (1.0, 60.0)


def test_overrides_are_read(declare: Declare) -> None:
    _, parameters = declare(alpha_max=0.5, stop=["", "<end>"], model="/models/qwen")
    settings = parameters.read()
    assert settings.alpha_max == 0.5
    assert settings.stop == ("<end>",)
    assert settings.model == "/models/qwen"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"alpha_max": 1.5}, r"alpha_max: .*\(1.5\)"),
        ({"alpha_max": -0.1}, "alpha_max"),
        ({"pessimism": 0.0}, "pessimism"),
        ({"risk": -0.05}, "risk"),
        ({"chunk": 0}, "chunk"),
        ({"threads": "many"}, "threads"),
        ({"default_budget": 2}, "default_budget"),
        ({"model": " "}, "model must be not empty"),
        ({"default_budget": 9.0, "max_budget": 5.0}, "default_budget must be at most max_budget"),
    ],
)
def test_a_bad_override_lets_the_node_come_up_and_fails_the_reading_by_name(
    declare: Declare, overrides: dict, named: str
) -> None:
    _, parameters = declare(**overrides)
    with pytest.raises(ValueError, match=named):
        parameters.read()


def test_an_override_that_nothing_declares_is_told(
    declare: Declare, capfd: pytest.CaptureFixture[str]
) -> None:
    declare(overrun_polcy="kill", pessimism=2.0, use_sim_time=False)
    warnings = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len(warnings) == 1
    assert "parameter overrun_polcy: there is none, it is ignored" in warnings[0]


def test_an_empty_list_in_a_file_is_one(ros_context: Context, tmp_path: Path) -> None:
    file = tmp_path / "llm.yaml"
    file.write_text("/**:\n  ros__parameters:\n    stop: []\n    risk: 0.25\n")
    given = ["--ros-args", "--params-file", str(file)]
    node = Node("parameters", context=ros_context, cli_args=given)
    assert Parameters(node).read() == Settings(risk=0.25)
    [result] = node.set_parameters([Parameter("stop", value=["<end>"])])
    assert result.successful
    node.destroy_node()


def test_equal_values_are_no_change_and_may_be_set_at_any_time(declare: Declare) -> None:
    node, parameters = declare(chunk=64)
    parameters.attach(lambda _: None)
    dumped = [node.get_parameter(name) for name in (*SPECS, "use_sim_time")]
    assert all(result.successful for result in node.set_parameters(dumped))
    assert node.set_parameters_atomically(dumped).successful
    assert parameters.read() == Settings(chunk=64)


def test_setting_a_good_value_mends_a_bad_override(declare: Declare) -> None:
    node, parameters = declare(alpha_max=1.5)
    node.set_parameters([Parameter("alpha_max", value=0.8)])
    assert parameters.read().alpha_max == 0.8


def result(node: Node, name: str, value: object) -> tuple[bool, str]:
    [outcome] = node.set_parameters([Parameter(name, value=value)])
    return outcome.successful, outcome.reason


def test_live_parameters_change_while_they_are_in_use(declare: Declare) -> None:
    node, parameters = declare()
    applied: list[Settings] = []
    parameters.attach(applied.append)
    assert result(node, "overrun_policy", "skip_next") == (True, "")
    assert result(node, "pessimism", 2.5) == (True, "")
    assert result(node, "risk", 0.05) == (True, "")
    assert [(s.overrun_policy, s.pessimism, s.risk) for s in applied] == [
        ("skip_next", 1.0, 0.0),
        ("skip_next", 2.5, 0.0),
        ("skip_next", 2.5, 0.05),
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("use_sim_time", True, "use_sim_time is read when the node is configured: clean up first"),
        ("model", "/models/qwen", "model is read when the node is configured: clean up first"),
        ("queue_capacity", 3, "queue_capacity is read when the node is configured"),
        ("overrun_policy", "pray", "overrun_policy must be one of kill, skip_next, anytime, not"),
        (
            "planner",
            "greedy",
            f"planner must be one of {', '.join(PLANNERS)}, not 'greedy'",
        ),
        ("alpha_max", 1.0, r"alpha_max must be in [0, 1), not 1.0"),
        ("risk", 1.0, r"risk must be in [0, 1), not 1.0"),
    ],
)
def test_what_cannot_change_in_use_is_refused_with_the_reason(
    declare: Declare, name: str, value: object, reason: str
) -> None:
    node, parameters = declare()
    applied: list[Settings] = []
    parameters.attach(applied.append)
    successful, said = result(node, name, value)
    assert not successful
    assert said.startswith(reason)
    assert applied == []
    assert parameters.read() == Settings()


def test_a_refused_clock_is_not_taken(declare: Declare) -> None:
    node, parameters = declare()
    parameters.attach(lambda settings: None)
    assert not result(node, "use_sim_time", True)[0]
    assert node.get_clock().now().nanoseconds > 0


def test_once_detached_every_parameter_may_change_again(declare: Declare) -> None:
    node, parameters = declare()
    parameters.attach(lambda settings: None)
    parameters.detach()
    assert result(node, "model", "/models/qwen") == (True, "")
    assert parameters.read().model == "/models/qwen"


def test_parameters_that_are_no_settings_are_left_alone(declare: Declare) -> None:
    node, parameters = declare()
    node.declare_parameter("somebody_s", 1)
    parameters.attach(lambda settings: None)
    assert result(node, "somebody_s", 2) == (True, "")
