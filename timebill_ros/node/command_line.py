# SPDX-License-Identifier: Apache-2.0
"""The package's commands as ROS tools are: one form of usage, --version, and --ros-args."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGE = "timebill_ros"
_BEGIN, _END = "--ros-args", "--"
_REMAP = ("-r", "--remap")
# What an action consists of: a rule of ROS's for its own name does nothing.
ACTION_PARTS = ("send_goal", "cancel_goal", "get_result", "feedback", "status")


def package_version() -> str:
    """Of the installed package."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def command_parser(
    name: str, description: str | None, *, epilog: str = ""
) -> argparse.ArgumentParser:
    """A parser of the command ``name``; its description stays as it is laid out."""
    parser = argparse.ArgumentParser(
        prog=f"{PACKAGE} {name}",
        description=description,
        epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    told = f"{PACKAGE} {package_version()}"
    parser.add_argument("--version", action="version", version=told)
    return parser


def parse_with_ros_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """The options, with ROS's own as ``given_ros_arguments``.

    Ends the process where some are bad.
    """
    own, ros = split_ros_arguments(arguments)
    options = parser.parse_args(own)
    if fault := _fault_of(ros):
        parser.error(f"{_BEGIN}: {fault}")
    options.given_ros_arguments = with_action_parts(ros)
    return options


def split_ros_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those of ROS: from each --ros-args to -- or the end."""
    own: list[str] = []
    ros: list[str] = []
    of_ros = False
    for argument in arguments:
        if of_ros or argument == _BEGIN:
            of_ros = argument != _END
            ros.append(argument)
        else:
            own.append(argument)
    return own, ros


def with_action_parts(ros_arguments: Sequence[str]) -> list[str]:
    """The same with every rule for a name followed by those for an action of that name.

    So that ``-r /llm/instruct:=/asked`` does what it says. For a topic they change nothing.
    """
    result: list[str] = []
    for flag, rule in zip(["", *ros_arguments], ros_arguments, strict=False):
        result.append(rule)
        name, assigned, new = rule.partition(":=")
        if flag in _REMAP and assigned and not name.startswith("__"):
            for part in ACTION_PARTS:
                result += ["-r", f"{name}/_action/{part}:={new}/_action/{part}"]
    return result


def _fault_of(ros_arguments: Sequence[str]) -> str:
    """What ROS finds wrong with its arguments; empty for nothing."""
    if not ros_arguments:
        return ""
    import rclpy  # other commands start sooner without it
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    try:
        rclpy.init(
            args=list(ros_arguments),
            context=context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except RuntimeError as error:  # the base of what rclpy raises of arguments
        return str(error).partition(". Error:")[0]
    rclpy.shutdown(context=context)
    return ""
