# SPDX-License-Identifier: Apache-2.0
"""The adapter's parameters: what a user reads about each, declaring them, and their values.

``python -m timebill_ros.autoware.settings`` prints the JSON schema of their files, with ``--table``
the table of docs/autoware.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from timebill_ros.autoware.scene import SceneTemplate
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.parameter_schema import parameter_schema, parameter_table, print_requested
from timebill_ros.node.parameter_specs import Range, Spec
from timebill_ros.node.parameters import parameter_descriptor

_POSE_SCHEMA = {
    "type": "object",
    "description": "The pose of each goal, by name: x, y, z in m, yaw in rad.",
    "additionalProperties": {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
    },
}


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter's parameters, but for the goals' poses, which carry names of the user's."""

    enabled: bool = True
    id_prefix: str = "drive/"
    max_age: float = 3.0
    service_timeout: float = 10.0
    goals: tuple[str, ...] = ()
    goal_frame: str = "map"
    budget: float = 1.0
    max_tokens: int = 32
    constrain: bool = True
    context_age: float = 1.0
    diagnostics_period: float = 1.0
    scene_template: str = "{ego} {sectors}"
    ego_template: str = "ego v{speed} l{lane} {mode} ;"
    sector_template: str = "sector s{sector} count n{count} : {objects}"
    object_template: str = "o{index} s{sector} {kind} d{distance} v{speed} h{heading} l{lane} ;"
    separator: str = " "
    modes: tuple[str, ...] = ("unknown", "stopped", "autonomous", "local", "remote")
    kinds: tuple[str, ...] = (
        "barrier",
        "car",
        "truck",
        "bus",
        "truck",
        "motorcycle",
        "cyclist",
        "pedestrian",
    )
    sectors: int = 8
    sector_objects: int = 4
    most_distance: float = 99.0
    most_speed: float = 59.0
    lane_width: float = 3.5
    ego_lane: int = 2
    lanes: int = 6

    def __post_init__(self) -> None:
        """Check what no range can say.

        Raises:
            SettingError: an empty prefix would let any answer move the vehicle; goals are in no
                frame; there are fewer words than things to name; a template asks for what there is
                not.
        """
        if not self.id_prefix:
            raise SettingError("id_prefix", self.id_prefix, "not empty: any answer would be obeyed")
        if not self.goal_frame:
            raise SettingError("goal_frame", self.goal_frame, "not empty")
        for name in ("modes", "kinds"):
            needed, given = len(getattr(type(self), name)), len(getattr(self, name))
            if given != needed:
                raise SettingError(name, given, f"{needed} words, one for each of Autoware's")
        self.template.check()

    @property
    def template(self) -> SceneTemplate:
        """How a scene is written."""
        return SceneTemplate(**{f.name: getattr(self, f.name) for f in fields(SceneTemplate)})


DEFAULTS = AdapterSettings()

SPECS: dict[str, Spec] = {
    "enabled": Spec("Whether commands are carried out; false cuts the vehicle off.", live=True),
    "id_prefix": Spec(
        "Only answers to instructions whose id begins so are looked at.", constraints="not empty"
    ),
    "max_age": Spec(
        "An answer whose instruction was released longer ago is refused, s.", Range(0.01, 60.0)
    ),
    "service_timeout": Spec(
        "How long a service of the AD API may take to answer, s.", Range(0.1, 60.0)
    ),
    "goals": Spec(
        "Names of the places that the vehicle may be sent to; `pose.NAME` is the pose of each: x, "
        "y, z in m, yaw in rad. '' entries are none."
    ),
    "goal_frame": Spec("Frame of the goals' poses.", constraints="not empty"),
    "budget": Spec(
        "Budget of an instruction that is made of a command's text, s.", Range(1e-3, 60)
    ),
    "max_tokens": Spec("Longest answer to such an instruction, tokens.", Range(1, 10_000)),
    "constrain": Spec("Whether its answer is held to the JSON schema of commands while decoding."),
    "context_age": Spec(
        "Speed and objects that are older say nothing of the scene, s: the text is refused.",
        Range(0.01, 60.0),
    ),
    "diagnostics_period": Spec("Time between two diagnostics messages, s.", Range(0.05, 60.0)),
    "scene_template": Spec("The scene: {ego}, {sectors}."),
    "ego_template": Spec("The vehicle: {speed} in m/s, {lane}, {mode}."),
    "sector_template": Spec(
        "A sector with objects: {sector} (0 ahead, counter-clockwise), {count}, {objects}."
    ),
    "object_template": Spec(
        "An object: {index} from 1, nearest first, {sector}, {kind}, {distance} in m, {speed} in "
        "m/s, {heading} in tens of degrees counter-clockwise from the vehicle's, {lane}, {ahead} "
        "and {left} in m."
    ),
    "separator": Spec("Between objects, and between sectors."),
    "modes": Spec(
        "Words for Autoware's operation modes: unknown, stop, autonomous, local, remote."
    ),
    "kinds": Spec(
        "Words for Autoware's classes of objects: unknown, car, truck, bus, trailer, motorcycle, "
        "bicycle, pedestrian."
    ),
    "sectors": Spec("Number of sectors around the vehicle.", Range(1, 320)),
    "sector_objects": Spec("Most objects of a sector, the nearest ones.", Range(1, 1000)),
    "most_distance": Spec("Objects that are farther are left out, m.", Range(1.0, 1000.0)),
    "most_speed": Spec("Greater speeds are written as this one, m/s.", Range(1.0, 200.0)),
    "lane_width": Spec("Lanes are told by this many metres each.", Range(0.5, 20.0)),
    "ego_lane": Spec("The vehicle's own lane, from which the others are counted.", Range(0, 100)),
    "lanes": Spec("Number of lanes that there are words for.", Range(1, 101)),
}


# (x, y, z) in m and yaw in rad.
GoalPose = tuple[float, float, float, float]

_POSES = "pose."


def declared_settings(node: Node) -> AdapterSettings:
    """Declare every parameter with its description and range, and read it.

    Raises:
        SettingError: a value that cannot be worked with, by name.
        rclpy.exceptions.InvalidParameterException: a value of another type or out of its range.
    """
    values: dict[str, Any] = {}
    for field in fields(AdapterSettings):
        default = getattr(DEFAULTS, field.name)
        # An empty list has no type of its own in ROS, a list of one empty string has.
        value = list(default) or [""] if isinstance(default, tuple) else default
        descriptor = parameter_descriptor(field.name, SPECS[field.name], value)
        given = node.declare_parameter(field.name, value, descriptor).value
        values[field.name] = tuple(filter(None, given)) if isinstance(default, tuple) else given
    return AdapterSettings(**values)


def declared_goals(node: Node, names: Iterable[str]) -> dict[str, GoalPose]:
    """The pose of each goal.

    Raises:
        SettingError: a goal has no pose, or one that is not four numbers.
    """
    poses = {}
    for name in names:
        parameter = f"{_POSES}{name}"
        node.declare_parameter(parameter, Parameter.Type.DOUBLE_ARRAY)
        try:
            given = list(node.get_parameter(parameter).value)
        except ParameterUninitializedException:
            given = []
        if len(given) != 4:
            bound = "x, y, z in m and yaw in rad, as four doubles, because goals names it"
            raise SettingError(parameter, given, bound)
        x, y, z, yaw = given
        poses[name] = (x, y, z, yaw)
    return poses


def is_pose(parameter: str) -> bool:
    """Whether it is a goal's pose."""
    return parameter.startswith(_POSES)


def adapter_schema() -> dict[str, Any]:
    """The JSON schema of the adapter's parameter files, the goals' poses among them."""
    return parameter_schema("autoware_adapter", SPECS, DEFAULTS, {"pose": _POSE_SCHEMA})


if __name__ == "__main__":
    print_requested(adapter_schema(), parameter_table(SPECS, DEFAULTS))
