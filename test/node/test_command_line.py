# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common."""

from __future__ import annotations

import subprocess
import sys

import pytest

from timebill_ros.__main__ import MODULES
from timebill_ros.node.command_line import (
    package_version,
    split_ros_arguments,
    with_action_parts,
)


def run(*arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "timebill_ros", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_command_has_one_form_of_usage_and_tells_its_version(name: str) -> None:
    assert run(name, "--help").startswith(f"usage: timebill_ros {name} [-h] [--version]")
    assert run(name, "--version") == f"timebill_ros {package_version()}\n"


def test_the_package_tells_its_version() -> None:
    assert run("--version") == f"timebill_ros {package_version()}\n"


@pytest.mark.parametrize(
    ("arguments", "own", "ros"),
    [
        ([], [], []),
        (["a", "-b"], ["a", "-b"], []),
        (["a", "--ros-args", "-r", "x:=y"], ["a"], ["--ros-args", "-r", "x:=y"]),
        (
            ["--ros-args", "-p", "x:=y", "--", "a"],
            ["a"],
            ["--ros-args", "-p", "x:=y", "--"],
        ),
    ],
)
def test_ros_arguments_are_told_apart(arguments: list[str], own: list[str], ros: list[str]) -> None:
    assert split_ros_arguments(arguments) == (own, ros)


def test_a_rule_for_a_name_is_one_for_the_action_of_that_name() -> None:
    rules = with_action_parts(["--ros-args", "-r", "/llm/instruct:=/asked", "-p", "a:=b"])
    assert rules[:3] == ["--ros-args", "-r", "/llm/instruct:=/asked"]
    assert "/llm/instruct/_action/send_goal:=/asked/_action/send_goal" in rules
    assert rules[-2:] == ["-p", "a:=b"]
    assert with_action_parts(["--ros-args", "-r", "__ns:=/a"]) == ["--ros-args", "-r", "__ns:=/a"]
