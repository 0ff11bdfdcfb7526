# SPDX-License-Identifier: Apache-2.0
"""The schema of parameter files against the declared parameters and the files that there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from rcl_interfaces.msg import ParameterDescriptor, ParameterType
from rclpy.context import Context
from rclpy.node import Node

from timebill_ros.node.parameter_schema import parameter_schema, parameter_table, schema_text
from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.node.parameters import Parameters

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config/llm.param.yaml", *sorted((ROOT / "config/presets").glob("*.yaml"))]
PROPERTIES = parameter_schema()["definitions"]["llm"]["properties"]
TYPES = {
    ParameterType.PARAMETER_STRING: "string",
    ParameterType.PARAMETER_BOOL: "boolean",
    ParameterType.PARAMETER_INTEGER: "integer",
    ParameterType.PARAMETER_DOUBLE: "number",
    ParameterType.PARAMETER_STRING_ARRAY: "array",
}


@pytest.fixture
def node(ros_context: Context) -> Iterator[Node]:
    """A node with the parameters declared."""
    node = Node("any", context=ros_context)
    Parameters(node)
    yield node
    node.destroy_node()


def validate(parameters: dict[str, Any]) -> None:
    jsonschema.validate(
        {"/**": {"ros__parameters": parameters}}, parameter_schema(), jsonschema.Draft7Validator
    )


def test_the_file_holds_the_schema() -> None:
    text = (ROOT / "schema/llm.schema.json").read_text(encoding="utf-8")
    assert text == schema_text(parameter_schema()), (
        "run: python -m timebill_ros.node.parameter_schema"
    )
    jsonschema.Draft7Validator.check_schema(parameter_schema())


def test_it_says_what_the_node_declares(node: Node) -> None:
    assert list(PROPERTIES) == list(SPECS)
    for name, shown in PROPERTIES.items():
        descriptor: ParameterDescriptor = node.describe_parameter(name)
        declared = node.get_parameter(name).value
        assert shown["type"] == TYPES[descriptor.type]
        assert shown["default"] == ([] if declared == [""] else declared)
        assert shown["description"].startswith(descriptor.description)
        assert shown["live"] is SPECS[name].live
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        bounds = [(shown["minimum"], shown["maximum"])] if "minimum" in shown else []
        assert bounds == [(r.from_value, r.to_value) for r in ranges]
        if "enum" in shown:
            assert shown["default"] in shown["enum"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_parameter_files_hold_to_it(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    jsonschema.validate(content, parameter_schema(), jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"pessimism": 0.5}, "0.5 is less than the minimum"),
        ({"pessimism": "five"}, "'five' is not of type 'number'"),
        ({"pesimism": 5.0}, "'pesimism' was unexpected"),
        ({"planner": "greedy"}, "'greedy' is not one of"),
        ({"queue_capacity": 1.5}, "1.5 is not of type 'integer'"),
        ({"stop": "end"}, "'end' is not of type 'array'"),
    ],
)
def test_a_bad_file_is_refused(parameters: dict[str, Any], fault: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=fault):
        validate(parameters)


def test_a_file_for_another_node_is_refused() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"llm": {"ros__parameters": {}}}, parameter_schema())


def test_the_readme_shows_the_declared_parameters() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- parameters: begin -->\n")[1].split("\n<!-- parameters: end -->")[0]
    assert shown == parameter_table(), "run: python -m timebill_ros.node.parameter_schema --table"
