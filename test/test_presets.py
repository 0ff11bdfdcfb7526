# SPDX-License-Identifier: Apache-2.0
"""The parameters that come for known models, as ROS reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node

from timebill_ros.node.parameters import Parameters
from timebill_ros.runtime.policy import decisions

FILES = sorted((Path(__file__).resolve().parents[1] / "config" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_node_takes_over_what_a_preset_says(file: Path) -> None:
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    node = Node("any", context=context)
    try:
        settings = Parameters(node).read()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    decisions(settings)
    said = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    assert said
    assert {name: getattr(settings, name) for name in said} == said


def test_a_preset_is_named_for_its_model() -> None:
    for file in FILES:
        said = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
        name = said["model"].split("/")[-1].lower() if "model" in said else said["engine"]
        assert file.name == f"{name}.param.yaml"
        assert "Memory: " in file.read_text()
