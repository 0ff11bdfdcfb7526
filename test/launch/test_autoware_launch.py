# SPDX-License-Identifier: Apache-2.0
"""The XML launch file under ROS 2's own launch, with the real nodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from test.autoware.interface_build import built_prefix, environment, installed

pytest.importorskip("launch_ros", reason="launch and launch_ros come with ROS 2, not from PyPI")
pytest.importorskip("launch_xml", reason="launch's XML front-end comes with ROS 2, not from PyPI")

from launch import LaunchContext
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.actions import SetParameter
from launch_ros.ros_adapters import get_ros_node
from rclpy.parameter_client import AsyncParameterClient

from .launching import Run, run, wait_for

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "autoware.launch.xml"
PUBLISHED = (
    "/planning/scenario_planning/max_velocity_candidates",
    "/planning/scenario_planning/clear_velocity_limit",
)
TAKEN = (
    "/localization/kinematic_state",
    "/api/operation_mode/state",
    "/api/perception/objects",
    "/api/routing/state",
)
CALLED = {
    "/api/operation_mode/change_to_autonomous",
    "/api/operation_mode/change_to_stop",
    "/api/routing/change_route_points",
    "/api/routing/clear_route",
    "/api/routing/set_route_points",
}


def test_every_argument_is_described() -> None:
    context = LaunchContext()
    source = AnyLaunchDescriptionSource(str(LAUNCH_FILE))
    declared = source.get_launch_description(context).get_launch_arguments()
    assert {"preset", "adapter_param_file", "input_command"} <= {a.name for a in declared}
    assert all(argument.description for argument in declared)


@dataclass(frozen=True)
class Names:
    """What a launch gives to the nodes: theirs, and the topic of commands."""

    arguments: dict[str, str]
    llm: str = "/llm"
    namespace: str = "/"
    adapter: str = "autoware_adapter"
    command: str = "/autoware_adapter/input/command"


@pytest.mark.e2e
@pytest.mark.parametrize(
    "names",
    [
        Names({}),
        Names({"input_command": "/say"}, command="/say"),
        Names(
            {"namespace": "car", "llm_node_name": "speaker", "adapter_node_name": "driver"},
            llm="/car/speaker",
            namespace="/car",
            adapter="driver",
            command="/car/driver/input/command",
        ),
    ],
    ids=["as they are", "remapped", "named"],
)
def test_node_and_adapter_come_up_wired(
    monkeypatch: pytest.MonkeyPatch, param_file: Callable[..., str], names: Names
) -> None:
    if not installed():
        for name, value in environment(built_prefix()).items():
            monkeypatch.setitem(os.environ, name, value)

    def look(context: LaunchContext) -> None:
        ros = get_ros_node(context)
        for topic in (f"{names.llm}/input/instruction", *PUBLISHED):
            wait_for(lambda topic=topic: ros.count_publishers(topic) == 1)
        answers = [f"{names.llm}/output/{kind}" for kind in ("response", "overrun")]
        for topic in (names.command, *answers, *TAKEN):
            wait_for(lambda topic=topic: ros.count_subscribers(topic) == 1)
        clients = dict(ros.get_client_names_and_types_by_node(names.adapter, names.namespace))
        assert clients.keys() >= CALLED

        # What is set for all nodes reaches both.
        for node in (names.llm, f"{names.namespace.rstrip('/')}/{names.adapter}"):
            answer = AsyncParameterClient(ros, node).get_parameters(["use_sim_time"])
            wait_for(answer.done)
            assert answer.result().values[0].bool_value

    arguments = {"llm_param_file": param_file(), **names.arguments}
    before = [SetParameter("use_sim_time", True)]
    seen = run(LAUNCH_FILE, arguments, until="active", then=look, before=before)
    assert seen == Run(
        states=["configuring", "inactive", "activating", "active"],
        arrived=True,
        exit_codes=[0, 0],
        launch_exit_code=0,
    )
