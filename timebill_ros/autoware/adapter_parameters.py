# SPDX-License-Identifier: Apache-2.0
"""Declares the adapter's parameters on a node and reads them once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from timebill_ros.autoware.settings import DEFAULTS, SPECS, AdapterSettings
from timebill_ros.autoware.vehicle import GoalPose
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.parameters import parameter_descriptor

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
