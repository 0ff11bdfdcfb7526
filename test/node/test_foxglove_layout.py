# SPDX-License-Identifier: Apache-2.0
"""The Foxglove layout: its form, and that what it shows is what the node publishes."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from timebill_ros.node.diagnostics import ServerHealth
from timebill_ros.node.llm_node import LlmNode
from timebill_ros.runtime.settings import Settings

from ..runtime.simulated import Scene

FILE = Path(__file__).resolve().parents[2] / "config" / "foxglove" / "timebill_ros.json"
LAYOUT = json.loads(FILE.read_text())
PANELS: dict[str, dict[str, Any]] = LAYOUT["configById"]


def leaves(tree: str | dict[str, Any]) -> Iterator[str]:
    """The panels that a split of the window holds."""
    if isinstance(tree, str):
        yield tree
        return
    assert tree.keys() == {"direction", "first", "second", "splitPercentage"}
    assert tree["direction"] in ("row", "column")
    assert 0 < tree["splitPercentage"] < 100
    yield from leaves(tree["first"])
    yield from leaves(tree["second"])


def message_paths() -> Iterator[str]:
    """Every topic, or path into a message of it, that a panel shows."""
    for panel in PANELS.values():
        yield from (path["value"] for path in panel.get("paths", []))
        yield from (panel[key] for key in ("topicPath", "topicToRender") if key in panel)


def test_the_form_is_that_of_an_exported_layout() -> None:
    keys = {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    assert LAYOUT.keys() == keys
    assert all(re.fullmatch(r"[A-Za-z]+![a-z]+", name) for name in PANELS)


def test_each_panel_is_placed_once() -> None:
    assert sorted(leaves(LAYOUT["layout"])) == sorted(PANELS)


@pytest.fixture
def node(ros_context: Context, profile_cache: Path) -> Iterator[LlmNode]:
    """A configured node of the name that the layout is for."""
    quick = {
        "profile_cache": str(profile_cache),
        "profile_seconds": 5.0,
        "max_context": 1024,
        "threads": 1,
    }
    given = [Parameter(name, value=value) for name, value in quick.items()]
    node = LlmNode(context=ros_context, parameter_overrides=given)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    yield node
    node.destroy_node()


def test_what_it_shows_is_what_the_node_has(node: LlmNode) -> None:
    """Its topics, the fields of their messages, the names of its statuses."""
    names = (node.get_name(), node.get_namespace())
    topics = dict(node.get_publisher_names_and_types_by_node(*names))
    topics |= dict(node.get_subscriber_names_and_types_by_node(*names))
    subjects = {"state", *ServerHealth().reports(Scene().server, Settings())}
    for path in message_paths():
        topic, *fields = re.split(r"\.(?![^{]*})", path)
        assert topic in topics, path
        [kind] = topics[topic]
        if fields:
            field = re.sub(r"\[.*", "", fields[0])
            package, _, name = kind.split("/")
            message = getattr(importlib.import_module(f"{package}.msg"), name)
            assert field in message.get_fields_and_field_types(), path
    shown = re.findall(r'name=="llm: (\w+)"', FILE.read_text().replace("\\", ""))
    assert set(shown) == subjects
