# SPDX-License-Identifier: Apache-2.0
"""The parameter file that comes with the package says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node

from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.node.parameters import Parameters
from timebill_ros.runtime.settings import Settings

FILE = Path(__file__).resolve().parents[1] / "config" / "llm.param.yaml"
NAMES = [field.name for field in fields(Settings)]


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of any name that was started with the parameter file."""
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(FILE)], context=context)
    node = Node("any", namespace="/anywhere", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def in_file() -> dict[str, object]:
    [(nodes, content)] = yaml.safe_load(FILE.read_text()).items()
    assert nodes == "/**"
    assert content.keys() == {"ros__parameters"}
    return content["ros__parameters"]


def test_the_file_names_every_parameter_and_no_other() -> None:
    assert set(in_file()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_the_default_and_of_its_type(name: str) -> None:
    value, default = in_file()[name], getattr(Settings(), name)
    if isinstance(default, tuple):  # ROS has no empty list; empty entries count for nothing
        value = tuple(entry for entry in value if entry)
    assert value == default
    assert type(value) is type(default)


def test_a_node_reads_the_file_as_its_defaults(node: Node) -> None:
    """Through ROS's own parser, which knows fewer forms of a number than YAML has."""
    assert Parameters(node).read() == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_a_comment_precedes_each_value_and_names_the_declared_range(name: str) -> None:
    lines = FILE.read_text().splitlines()
    [place] = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
    comment = lines[place - 1].strip()
    assert comment.startswith("# ")
    bounds = SPECS[name].range
    if bounds is not None:
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", comment)]
        assert bounds.low in numbers
        assert bounds.high in numbers
