# SPDX-License-Identifier: Apache-2.0
"""The launch file under ROS 2's own launch, with the real node where a test is marked e2e."""

from __future__ import annotations

import logging
import runpy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch and launch_ros come with ROS 2, not from PyPI")

from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import (
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.srv import GetState
from rclpy.parameter_client import AsyncParameterClient

# Importing launch has every logger made from then on keep its records to itself, away from caplog.
logging.setLoggerClass(logging.Logger)

SOURCE_TREE = Path(__file__).resolve().parents[2]
LAUNCH_FILE = SOURCE_TREE / "launch" / "llm.launch.py"
ARGUMENTS = {
    "param_file",
    "preset",
    "model",
    "device",
    "policy",
    "use_sim_time",
    "namespace",
    "node_name",
    "input_instruction",
    "output_response",
    "output_overrun",
    "output_partial",
    "instruct",
    "autostart",
    "log_level",
}
# Longest wait for a state, and for the graph to show what is there, s.
PATIENCE = 60.0
GRAPH_PATIENCE = 30.0
# Long enough for a second attempt to show, s.
QUIET = 1.0


@dataclass
class Run:
    """What a launch did: the states that its node reached, and how all ended."""

    states: list[str] = field(default_factory=list)
    arrived: bool = False
    exit_codes: list[int] = field(default_factory=list)
    launch_exit_code: int | None = None


def run(
    arguments: dict[str, str],
    *,
    until: str,
    then: Callable[[LaunchContext], None] = lambda context: None,
    quiet: float = 0.0,
) -> Run:
    """Launch until the node is there, look around, and shut down.

    Args:
        arguments: of the launch file.
        until: the state that the node is to reach; "started" before the first one.
        then: called there.
        quiet: how long to go on from there, s.
    """
    seen = Run()

    def reached(context: LaunchContext, state: str) -> list[TimerAction]:
        if state != until:
            return []
        seen.arrived = True
        then(context)
        return [TimerAction(period=quiet, actions=[Shutdown(reason="the test is done")])]

    def note_state(context: LaunchContext) -> list[TimerAction]:
        seen.states.append(context.locals.event.goal_state)
        return reached(context, seen.states[-1])

    def note_exit(context: LaunchContext) -> None:
        seen.exit_codes.append(context.locals.event.returncode)

    started = OnProcessStart(on_start=[OpaqueFunction(function=reached, args=["started"])])
    changed = OnStateTransition(entities=[OpaqueFunction(function=note_state)])
    ended = OnProcessExit(on_exit=[OpaqueFunction(function=note_exit)])
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [
                *(RegisterEventHandler(handler) for handler in (started, changed, ended)),
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
                    launch_arguments=arguments.items(),
                ),
                TimerAction(period=PATIENCE, actions=[Shutdown(reason="the test took too long")]),
            ]
        )
    )
    seen.launch_exit_code = service.run()
    return seen


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for the graph, which is discovered in the background."""
    end = time.monotonic() + GRAPH_PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def param_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a parameter file for a node that is soon ready and leaves nothing behind."""

    def write(**parameters: object) -> str:
        quick = {"profile_cache": str(tmp_path), "profile_seconds": 1.0, "threads": 1}
        lines = [f"    {name}: {value}" for name, value in {**quick, **parameters}.items()]
        path = tmp_path / "test.param.yaml"
        path.write_text("\n".join(["/**:", "  ros__parameters:", *lines, ""]))
        return str(path)

    return write


def test_the_documented_arguments_are_declared() -> None:
    context = LaunchContext()
    source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
    declared = source.get_launch_description(context).get_launch_arguments()
    assert {argument.name for argument in declared} == ARGUMENTS
    assert all(argument.description for argument in declared)


def test_a_parameter_file_that_does_not_exist_ends_the_launch() -> None:
    assert run({"param_file": "/nowhere.yaml"}, until="active").launch_exit_code == 1


def test_a_preset_that_does_not_exist_ends_the_launch_naming_those_that_do() -> None:
    presets = SOURCE_TREE / "config" / "presets"
    preset_file = runpy.run_path(str(LAUNCH_FILE))["preset_file"]
    with pytest.raises(FileNotFoundError, match=r"'gpt'; there are: embedded, llama-3\.2-3b"):
        preset_file("gpt", presets)
    assert preset_file("embedded", presets) == str(presets / "embedded.param.yaml")
    assert run({"preset": "gpt"}, until="active").launch_exit_code == 1


@pytest.mark.e2e
def test_a_preset_wins_over_the_file_and_an_argument_over_the_preset(
    param_file: Callable[..., str],
) -> None:
    def look(context: LaunchContext) -> None:
        client = AsyncParameterClient(get_ros_node(context), "/llm")
        answer = client.get_parameters(["default_budget", "dtype", "overrun_policy", "seed"])
        wait_for(answer.done)
        budget, dtype, policy, seed = answer.result().values
        assert budget.double_value == 2.0
        assert dtype.string_value == "float32"
        assert policy.string_value == "skip_next"
        assert seed.integer_value == 7

    file = param_file(default_budget=5.0, seed=7)
    arguments = {"param_file": file, "preset": "embedded", "policy": "skip_next"}
    seen = run(arguments, until="active", then=look)
    assert seen.arrived
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_the_node_comes_to_active_and_ends_cleanly(param_file: Callable[..., str]) -> None:
    """Arguments are left empty, as an including launch file may leave them."""
    empty = dict.fromkeys(ARGUMENTS - {"autostart"}, "")
    seen = run({**empty, "param_file": param_file()}, until="active")
    assert seen == Run(
        states=["configuring", "inactive", "activating", "active"],
        arrived=True,
        exit_codes=[0],
        launch_exit_code=0,
    )


@pytest.mark.e2e
def test_arguments_reach_the_node(param_file: Callable[..., str]) -> None:
    """Those that override parameters win over the file, which keeps the others."""
    file = param_file(overrun_policy="kill", seed=7)

    def look(context: LaunchContext) -> None:
        ros = get_ros_node(context)
        wait_for(lambda: ros.count_publishers("/answers"))
        wait_for(lambda: ros.count_publishers("/car/speaker/output/overrun"))
        wait_for(lambda: ros.count_subscribers("/questions"))
        wait_for(lambda: ros.count_publishers("/asked/_action/feedback"))
        wait_for(lambda: ros.count_services("/asked/_action/send_goal"))
        client = AsyncParameterClient(ros, "/car/speaker")
        answer = client.get_parameters(["overrun_policy", "use_sim_time", "seed"])
        wait_for(answer.done)
        policy, simulated, seed = answer.result().values
        assert policy.string_value == "skip_next"
        assert simulated.bool_value
        assert seed.integer_value == 7

    seen = run(
        {
            "param_file": file,
            "policy": "skip_next",
            "use_sim_time": "true",
            "namespace": "/car",
            "node_name": "speaker",
            "input_instruction": "/questions",
            "output_response": "/answers",
            "instruct": "/asked",
        },
        until="active",
        then=look,
    )
    assert seen.arrived
    assert seen.exit_codes == [0]
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_a_configuration_that_fails_is_not_tried_again(param_file: Callable[..., str]) -> None:
    seen = run({"param_file": param_file(alpha_max=1.5)}, until="unconfigured", quiet=QUIET)
    assert seen == Run(
        states=["configuring", "unconfigured"], arrived=True, exit_codes=[0], launch_exit_code=0
    )


@pytest.mark.e2e
def test_without_autostart_the_node_stays_unconfigured(param_file: Callable[..., str]) -> None:
    def look(context: LaunchContext) -> None:
        client = get_ros_node(context).create_client(GetState, "/llm/get_state")
        wait_for(client.service_is_ready)
        answer = client.call_async(GetState.Request())
        wait_for(answer.done)
        assert answer.result().current_state.label == "unconfigured"

    arguments = {"param_file": param_file(), "autostart": "false"}
    seen = run(arguments, until="started", then=look, quiet=QUIET)
    assert seen == Run(states=[], arrived=True, exit_codes=[0], launch_exit_code=0)
