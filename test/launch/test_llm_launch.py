# SPDX-License-Identifier: Apache-2.0
"""The launch file under ROS 2's own launch, with the real node where a test is marked e2e."""

from __future__ import annotations

import logging
import os
import runpy
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytest.importorskip("launch_ros", reason="launch and launch_ros come with ROS 2, not from PyPI")
pytest.importorskip("launch_xml", reason="launch's XML front-end comes with ROS 2, not from PyPI")

from launch import LaunchContext
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.srv import GetState
from rclpy.parameter_client import AsyncParameterClient

from timebill_ros.client.session import Session

from .launching import Run, run, wait_for

SOURCE_TREE = Path(__file__).resolve().parents[2]
LAUNCH_FILE = SOURCE_TREE / "launch" / "llm.launch.py"
LAUNCH_FILES = [LAUNCH_FILE, LAUNCH_FILE.with_name("llm.launch.xml")]
ARGUMENTS = {
    "param_file",
    "params_file",
    "preset",
    "engine",
    "url",
    "server_model",
    "api_key_file",
    "fallback",
    "model",
    "models",
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
    "shutdown_on_failure",
    "use_respawn",
    "respawn_delay",
    "log_level",
}
# Long enough for a second attempt to show, s.
QUIET = 1.0


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.suffix)
def test_the_documented_arguments_are_declared(file: Path) -> None:
    context = LaunchContext()
    source = AnyLaunchDescriptionSource(str(file))
    declared = source.get_launch_description(context).get_launch_arguments()
    assert {argument.name for argument in declared} == ARGUMENTS
    assert all(argument.description for argument in declared)


@pytest.mark.parametrize("argument", ["param_file", "params_file"])
def test_a_parameter_file_that_does_not_exist_ends_the_launch(argument: str) -> None:
    assert run(LAUNCH_FILE, {argument: "/nowhere.yaml"}, until="active").launch_exit_code == 1


@pytest.mark.e2e
@pytest.mark.parametrize(
    "arguments", [{"log_level": "loud"}, {"param_file": ""}, {"params_file": ""}], ids=str
)
def test_a_node_that_dies_before_it_is_one_ends_the_launch(
    arguments: dict[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("/**: [")
    given = {name: value or str(broken) for name, value in arguments.items()}
    seen = run(LAUNCH_FILE, given, until="active")
    assert not seen.arrived
    assert seen.states == []
    assert seen.launch_exit_code == 1


@pytest.mark.e2e
def test_a_name_that_is_taken_is_told_and_waited_for(
    param_file: Callable[..., str],
) -> None:
    """The other node of the name goes as soon as launch has said that it is there."""
    other = Session("llm", int(os.environ["ROS_DOMAIN_ID"]))

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "A node /llm is there already" in record.getMessage():
                other.close()
                logger.removeHandler(self)

    logger = logging.getLogger("launch.user")
    logger.addHandler(told := Told())
    seen = run(LAUNCH_FILE, {"param_file": param_file()}, until="active")
    assert told not in logger.handlers
    assert seen.arrived
    assert seen.states == ["configuring", "inactive", "activating", "active"]


def test_a_preset_that_does_not_exist_ends_the_launch_naming_those_that_do() -> None:
    presets = SOURCE_TREE / "config" / "presets"
    preset_file = runpy.run_path(str(LAUNCH_FILE))["preset_file"]
    with pytest.raises(FileNotFoundError, match=r"'gpt'; there are: embedded, llama-3\.2-3b"):
        preset_file("gpt", presets)
    assert preset_file("embedded", presets) == str(presets / "embedded.param.yaml")
    assert run(LAUNCH_FILE, {"preset": "gpt"}, until="active").launch_exit_code == 1


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
    seen = run(LAUNCH_FILE, arguments, until="active", then=look)
    assert seen.arrived
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_several_models_are_told_by_an_argument(param_file: Callable[..., str]) -> None:
    def look(context: LaunchContext) -> None:
        client = AsyncParameterClient(get_ros_node(context), "/llm")
        answer = client.get_parameters(["models"])
        wait_for(answer.done)
        (models,) = answer.result().values
        assert models.string_array_value == ["embedded", "embedded-small"]

    given = {"models": "[embedded, embedded-small]", "param_file": param_file()}
    seen = run(LAUNCH_FILE, given, until="active", then=look)
    assert seen.arrived
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_a_server_and_what_stands_in_for_it_are_told_by_arguments(
    param_file: Callable[..., str], tmp_path: Path
) -> None:
    def look(context: LaunchContext) -> None:
        client = AsyncParameterClient(get_ros_node(context), "/llm")
        answer = client.get_parameters(
            ["engine", "url", "server_model", "api_key_file", "fallback"]
        )
        wait_for(answer.done)
        engine, url, model, key, fallback = answer.result().values
        assert engine.string_value == "served"
        assert url.string_value == "http://127.0.0.1:1"
        assert model.string_value == "big"
        assert key.string_value == str(key_file)
        assert fallback.string_array_value == ["local"]

    key_file = tmp_path / "key"
    key_file.write_text("sk-0")
    given = {"engine": "served", "url": "http://127.0.0.1:1", "server_model": "big"}
    given |= {"api_key_file": str(key_file), "fallback": "[local]", "param_file": param_file()}
    seen = run(LAUNCH_FILE, given, until="active", then=look)
    assert seen.arrived
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_the_node_comes_to_active_and_ends_cleanly(param_file: Callable[..., str]) -> None:
    """Arguments are left empty, as an including launch file may leave them."""
    empty = dict.fromkeys(ARGUMENTS - {"autostart"}, "")
    seen = run(LAUNCH_FILE, {**empty, "param_file": param_file()}, until="active")
    assert seen == Run(
        states=["configuring", "inactive", "activating", "active"],
        arrived=True,
        exit_codes=[0],
        launch_exit_code=0,
    )


@pytest.mark.e2e
@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.suffix)
def test_arguments_reach_the_node(file: Path, param_file: Callable[..., str]) -> None:
    """Those that override parameters win over the file, which keeps the others."""
    parameters = param_file(overrun_policy="kill", seed=7)

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
        file,
        {
            "param_file": parameters,
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
    seen = run(
        LAUNCH_FILE, {"param_file": param_file(alpha_max=1.5)}, until="unconfigured", quiet=QUIET
    )
    assert seen == Run(
        states=["configuring", "unconfigured"], arrived=True, exit_codes=[0], launch_exit_code=0
    )


@pytest.mark.e2e
def test_a_configuration_that_fails_ends_the_launch_where_it_is_to(
    param_file: Callable[..., str],
) -> None:
    arguments = {"param_file": param_file(alpha_max=1.5), "shutdown_on_failure": "true"}
    seen = run(LAUNCH_FILE, arguments, until="active")
    assert (seen.states, seen.arrived) == (["configuring"], False)
    assert seen.launch_exit_code == 1


@pytest.mark.e2e
def test_a_node_that_died_is_respawned_and_started_again(param_file: Callable[..., str]) -> None:
    killed = []

    def kill(context: LaunchContext) -> None:
        """The first time; the second one is shut down in order."""
        children = psutil.Process().children()
        [process] = [child for child in children if "llm_node" in " ".join(child.cmdline())]
        if not killed:
            process.kill()
        killed.append(process.pid)

    arguments = {"param_file": param_file(), "use_respawn": "true", "respawn_delay": "0.1"}
    seen = run(LAUNCH_FILE, arguments, until="active", then=kill, times=2)
    assert seen.states == ["configuring", "inactive", "activating", "active"] * 2
    assert seen.exit_codes == [-signal.SIGKILL, 0]
    assert len(set(killed)) == 2
    assert seen.launch_exit_code == 0


@pytest.mark.e2e
def test_without_autostart_the_node_stays_unconfigured(param_file: Callable[..., str]) -> None:
    def look(context: LaunchContext) -> None:
        client = get_ros_node(context).create_client(GetState, "/llm/get_state")
        wait_for(client.service_is_ready)
        answer = client.call_async(GetState.Request())
        wait_for(answer.done)
        assert answer.result().current_state.label == "unconfigured"

    arguments = {"param_file": param_file(), "autostart": "false"}
    seen = run(LAUNCH_FILE, arguments, until="started", then=look, quiet=QUIET)
    assert seen == Run(states=[], arrived=True, exit_codes=[0], launch_exit_code=0)
