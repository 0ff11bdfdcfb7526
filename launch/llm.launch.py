# SPDX-License-Identifier: Apache-2.0
"""Starts the node that answers instructions in time, and brings it to active."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

PACKAGE = "timebill_ros"
NODE_NAME = "llm"
PARAM_FILE = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "llm.param.yaml"])
PRESETS = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "presets"])
PRESET_SUFFIX = ".param.yaml"

# Launch arguments that override one parameter of the file each: its name and type.
OVERRIDES = {
    "model": ("model", str),
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


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the node is made once their values are known."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=start)])


def arguments() -> list[DeclareLaunchArgument]:
    """Every argument with its default, and what it is for."""
    return [
        DeclareLaunchArgument(
            "param_file",
            default_value=PARAM_FILE,
            description="Parameter file of the node; empty: the defaults built into it.",
        ),
        DeclareLaunchArgument(
            "preset",
            default_value="",
            description="Name of a model in the package's config/presets, whose parameters "
            "override those of param_file; empty: none.",
        ),
        DeclareLaunchArgument(
            "model",
            default_value="",
            description="The language model: 'embedded', a checkpoint directory or a hub id; "
            f"{AS_IN_FILE}.",
        ),
        DeclareLaunchArgument(
            "device",
            default_value="",
            description=f"Where the model runs: cpu, cuda or cuda:N; {AS_IN_FILE}.",
        ),
        DeclareLaunchArgument(
            "policy",
            default_value="",
            choices=["", "kill", "skip_next", "anytime"],
            description=f"What becomes of a late instruction (overrun_policy); {AS_IN_FILE}.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="",
            description=f"Whether deadlines count on /clock: true or false; {AS_IN_FILE}.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "node_name", default_value=NODE_NAME, description="Name of the node."
        ),
        DeclareLaunchArgument(
            "input_instruction",
            default_value=TOPICS["input_instruction"],
            description="Topic to take instructions from.",
        ),
        DeclareLaunchArgument(
            "output_response",
            default_value=TOPICS["output_response"],
            description="Topic to publish responses on.",
        ),
        DeclareLaunchArgument(
            "output_overrun",
            default_value=TOPICS["output_overrun"],
            description="Topic to publish overruns on.",
        ),
        DeclareLaunchArgument(
            "output_partial",
            default_value=TOPICS["output_partial"],
            description="Topic to publish responses on while they are generated, where the "
            "parameter publish_partial wants it.",
        ),
        DeclareLaunchArgument(
            "instruct",
            default_value=ACTION[1],
            description="Action to take instructions as goals from.",
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            description="Whether the node is configured and activated once it runs.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="",
            description="debug, info, warn, error or fatal; empty: ROS's default.",
        ),
    ]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and what brings it to active; arguments that are empty have no effect."""
    given = {
        argument.name: value
        for argument in arguments()
        if (value := LaunchConfiguration(argument.name).perform(context))
    }
    node = llm_node(given, context)
    return [autostart(node), node]


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
    file = given.get("param_file")
    if file and not Path(file).is_file():
        raise FileNotFoundError(f"param_file: there is no file {file!r}")
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


def autostart(node: LifecycleNode) -> GroupAction:
    """Configures the node when its process runs, then activates it.

    Each once: what a user does with the node's lifecycle later is not undone, and a configuration
    that failed is not tried again, since it would fail again.
    """
    configure = OnProcessStart(
        target_action=node, on_start=[change_state(node, Transition.TRANSITION_CONFIGURE)]
    )
    activate = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change_state(node, Transition.TRANSITION_ACTIVATE)],
        handle_once=True,
    )
    failed = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="unconfigured",
        entities=[LogInfo(msg=NOT_CONFIGURED)],
    )
    handlers = [RegisterEventHandler(handler) for handler in (configure, activate, failed)]
    return GroupAction(handlers, condition=IfCondition(LaunchConfiguration("autostart")))


def change_state(node: LifecycleNode, transition_id: int) -> EmitEvent:
    """Ask the node for a transition."""
    return EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition_id)
    )
