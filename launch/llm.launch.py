# SPDX-License-Identifier: Apache-2.0
"""Starts the node that answers instructions in time, and brings it to active.

The launch ends with an error where the process ends before it is a node. Where another node has its
name already, it says so and waits until that one is gone.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import List  # noqa: UP035 - launch takes no `list[str]` for it

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

PACKAGE = "timebill_ros"
NODE_NAME = "llm"
PARAM_FILE = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "llm.param.yaml"])
PRESETS = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "presets"])
PRESET_SUFFIX = ".param.yaml"

# Launch arguments that override one parameter of the file each: its name and type.
OVERRIDES = {
    "engine": ("engine", str),
    "url": ("url", str),
    "server_model": ("server_model", str),
    "api_key_file": ("api_key_file", str),
    "fallback": ("fallback", List[str]),  # noqa: UP006
    "model": ("model", str),
    "models": ("models", List[str]),  # noqa: UP006
    "device": ("device", str),
    "policy": ("overrun_policy", str),
    "use_sim_time": ("use_sim_time", bool),
}
# Launch arguments that name a topic, and the node's own name for it.
TOPICS = {
    "input_instruction": "~/input/instruction",
    "output_response": "~/output/response",
    "output_overrun": "~/output/overrun",
    "output_partial": "~/output/partial",
}
# The launch argument that names the action, and the node's own name for it. A rule for an action
# does nothing: the services and topics that it consists of need one each.
ACTION = ("instruct", "~/instruct")
ACTION_PARTS = ("send_goal", "cancel_goal", "get_result", "feedback", "status")
NOT_CONFIGURED = (
    "The node is not configured, its log says why. Set it right (ros2 param set), then let it "
    "configure again (ros2 lifecycle set); it will be activated."
)
AS_IN_FILE = "empty: as in param_file"
TRUE = ("true", "1")
Entities = list[LaunchDescriptionEntity]
TAKEN = (
    "A node {} is there already: this one is configured once that one is gone. End that one, or "
    "start this one under another node_name, namespace or ROS_DOMAIN_ID."
)
# How soon the node is looked for again, and how long it has to learn of our end of its topic, s.
LOOK, SETTLING = 0.1, 0.3
# A node that is seen in the first looks is hardly ours yet; after the last it is taken for it.
EARLY, DOUBTFUL = 10, 300

# Every launch argument: its default, and what it is for.
ARGUMENTS = {
    "param_file": (PARAM_FILE, "Parameter file of the node; empty: the defaults built into it."),
    "params_file": ("", "Another name of param_file, over which it wins; empty: that one."),
    "preset": (
        "",
        "Name of a model in the package's config/presets, whose parameters override those of "
        "param_file; empty: none.",
    ),
    "engine": ("", f"What answers: local, or served, a server at url; {AS_IN_FILE}."),
    "url": ("", f"The server's address, http://HOST:PORT or https://HOST; {AS_IN_FILE}."),
    "server_model": ("", f"The model's name on the server; {AS_IN_FILE}."),
    "api_key_file": ("", f"File that holds the server's key and nothing else; {AS_IN_FILE}."),
    "fallback": (
        "",
        f"Engines that answer where engine cannot, as in [local]; [''] for none; {AS_IN_FILE}.",
    ),
    "model": (
        "",
        f"The language model: 'embedded', a checkpoint directory or a hub id; {AS_IN_FILE}.",
    ),
    "models": (
        "",
        "Several models, the largest first, of which plans choose one, as in "
        f"[embedded, embedded-small]; [''] for model alone; {AS_IN_FILE}.",
    ),
    "device": ("", f"Where the model runs: cpu, cuda or cuda:N; {AS_IN_FILE}."),
    "policy": ("", f"What becomes of a late instruction (overrun_policy); {AS_IN_FILE}."),
    "use_sim_time": ("", f"Whether deadlines count on /clock: true or false; {AS_IN_FILE}."),
    "namespace": ("", "Namespace of the node."),
    "node_name": (NODE_NAME, "Name of the node."),
    "input_instruction": (TOPICS["input_instruction"], "Topic to take instructions from."),
    "output_response": (TOPICS["output_response"], "Topic to publish responses on."),
    "output_overrun": (TOPICS["output_overrun"], "Topic to publish overruns on."),
    "output_partial": (
        TOPICS["output_partial"],
        "Topic to publish responses on while they are generated, where the parameter "
        "publish_partial wants it.",
    ),
    "instruct": (ACTION[1], "Action to take instructions as goals from."),
    "autostart": ("true", "Whether the node is configured and activated once it runs."),
    "shutdown_on_failure": (
        "false",
        "Whether the launch ends, with exit code 1, where the node cannot be configured, or dies "
        "and is not respawned.",
    ),
    "use_respawn": (
        "false",
        "Whether a node that died is started again, and with autostart configured and activated "
        "again.",
    ),
    "respawn_delay": ("2.0", "Time before that, s."),
    "log_level": ("", "debug, info, warn, error or fatal; empty: ROS's default."),
}
CHOICES = {
    "engine": ["", "local", "served"],
    "policy": ["", "kill", "skip_next", "anytime"],
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the node is made once their values are known."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])


def arguments() -> list[DeclareLaunchArgument]:
    """Every argument with its default, and what it is for."""
    return [
        DeclareLaunchArgument(
            name, default_value=default, description=meaning, choices=CHOICES.get(name)
        )
        for name, (default, meaning) in ARGUMENTS.items()
    ]


def start(context: LaunchContext) -> Entities:
    """The node and what brings it to active; arguments that are empty have no effect."""
    given = {
        argument.name: value
        for argument in arguments()
        if (value := LaunchConfiguration(argument.name).perform(context))
    }
    node = llm_node(given, context)
    get_ros_node(context)  # which discovers others from here on
    return [*Startup(node, given).handlers(), node]


def llm_node(given: dict[str, str], context: LaunchContext) -> LifecycleNode:
    """The node as the arguments want it."""
    return LifecycleNode(
        package=PACKAGE,
        executable="llm_node",
        name=given.get("node_name", NODE_NAME),
        namespace=given.get("namespace", ""),
        parameters=parameters(given, Path(PRESETS.perform(context))),
        remappings=remappings(given),
        ros_arguments=["--log-level", given["log_level"]] if "log_level" in given else None,
        respawn=is_true(given, "use_respawn"),
        respawn_delay=float(given.get("respawn_delay", 0.0)),
        output="screen",
    )


def remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """The node's own names, and those that they are to have."""
    rules = [(topic, given[name]) for name, topic in TOPICS.items() if name in given]
    argument, action = ACTION
    if argument in given:
        for part in ACTION_PARTS:
            rules.append((f"{action}/_action/{part}", f"{given[argument]}/_action/{part}"))
    return rules


def parameters(given: dict[str, str], presets: Path) -> list[str | dict[str, ParameterValue]]:
    """The parameter file, then what overrides it: the preset, then single arguments.

    Raises:
        FileNotFoundError: launch itself would only warn of a missing file, and go on without it.
    """
    name = "params_file" if "params_file" in given else "param_file"
    file = given.get(name)
    if file and not Path(file).is_file():
        raise FileNotFoundError(f"{name}: there is no file {file!r}")
    preset = preset_file(given["preset"], presets) if "preset" in given else None
    overrides = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=value_type)
        for name, (parameter, value_type) in OVERRIDES.items()
        if name in given
    }
    return [part for part in (file, preset, overrides) if part]


def preset_file(name: str, presets: Path) -> str:
    """The file of a preset.

    Raises:
        FileNotFoundError: there is none of that name; the message names those there are.
    """
    files = {path.name.removesuffix(PRESET_SUFFIX): path for path in presets.glob("*.yaml")}
    if name not in files:
        names = ", ".join(sorted(files))
        raise FileNotFoundError(f"preset: there is none named {name!r}; there are: {names}")
    return str(files[name])


def is_true(given: dict[str, str], argument: str) -> bool:
    """Whether a yes-or-no argument says yes."""
    return given.get(argument, "").lower() in TRUE


class Startup:
    """Brings the node to active each time that its process starts, and tells what went wrong.

    Each transition once a start: what a user does with the node's lifecycle later is not undone,
    and a configuration that failed is not tried again, since it would fail again.
    """

    def __init__(self, node: LifecycleNode, given: dict[str, str]) -> None:
        """What is to be done, as the arguments want it."""
        self._node = node
        self._autostart = is_true(given, "autostart")
        self._strict = is_true(given, "shutdown_on_failure")
        self._respawns = is_true(given, "use_respawn")
        self._starts = 0
        self._running = self._seen = self._to_activate = False
        self._doubted = self._told = False

    def handlers(self) -> list[RegisterEventHandler]:
        """What is to be called, and when."""
        node = self._node
        changed = partial(OnStateTransition, target_lifecycle_node=node, start_state="configuring")
        events = (
            OnProcessStart(target_action=node, on_start=calling(self._started)),
            OnProcessExit(target_action=node, on_exit=calling(self._ended)),
            changed(goal_state="inactive", entities=calling(self._configured)),
            changed(goal_state="unconfigured", entities=calling(self._failed)),
        )
        return [RegisterEventHandler(handler) for handler in events]

    def _started(self, context: LaunchContext) -> Entities:
        self._running, self._to_activate = True, self._autostart
        self._seen = self._doubted = self._told = False
        self._starts += 1
        return self._look(context, self._starts, 1)

    def _look(self, context: LaunchContext, start: int, number: int) -> Entities:
        """Configure the node once it is there, alone, and its transitions can be heard.

        One that is missed never comes again, and a transition that is asked for under a name that
        two nodes have reaches both.
        """
        if not self._running or start != self._starts:
            return []
        name, ros = self._node.node_name, get_ros_node(context)
        nodes = ros.get_node_names_and_namespaces()
        there = [f"{place.rstrip('/')}/{own}" for own, place in nodes].count(name)
        self._doubted = there == 1 and (self._doubted or number <= EARLY)
        ours = there == 1 and (not self._doubted or number > DOUBTFUL)
        if ours and ros.count_publishers(f"{name}/transition_event") > 0:
            self._seen = True
            configure = change_state(self._node, Transition.TRANSITION_CONFIGURE)
            return [TimerAction(period=SETTLING, actions=[configure])] if self._autostart else []
        again = [OpaqueFunction(function=self._look, args=[start, number + 1])]
        actions = [TimerAction(period=LOOK, actions=again)]
        if there > 1 and not self._told:
            self._told, self._seen = True, True
            actions.append(LogInfo(msg=TAKEN.format(name)))
        return actions

    def _configured(self, context: LaunchContext) -> Entities:
        activate, self._to_activate = self._to_activate, False
        return [change_state(self._node, Transition.TRANSITION_ACTIVATE)] if activate else []

    def _failed(self, context: LaunchContext) -> Entities:
        """Say what to do; the node itself logs why.

        Raises:
            RuntimeError: the launch is to end.
        """
        if self._strict:
            raise RuntimeError(f"{self._node.node_name} cannot be configured, its log says why")
        return [LogInfo(msg=NOT_CONFIGURED)] if self._to_activate else []

    def _ended(self, context: LaunchContext) -> None:
        """Judge the end of the process.

        Raises:
            RuntimeError: it ended by itself, and the launch is to end too.
        """
        self._running = False
        status, name = context.locals.event.returncode, self._node.node_name
        if context.is_shutdown or status == 0 or (self._respawns and self._seen):
            return
        if not self._seen:
            raise RuntimeError(f"{name} ended with exit code {status} before it was a node")
        if self._strict:
            raise RuntimeError(f"{name} died with exit code {status}")


def calling(function: Callable[[LaunchContext], Entities | None]) -> list[OpaqueFunction]:
    """What launch wants for a function that is to be called with its context."""
    return [OpaqueFunction(function=function)]


def change_state(node: LifecycleNode, transition_id: int) -> EmitEvent:
    """Ask the node for a transition."""
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id)
    )
