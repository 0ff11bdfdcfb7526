# SPDX-License-Identifier: Apache-2.0
"""What files tell of the parameters: the JSON schema of parameter files, and README's table.

``python -m timebill_ros.node.parameter_schema`` prints the schema, with ``--table`` the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from timebill_ros.node.parameter_specs import DEFAULTS, SPECS, Spec

_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_ROS_TYPES = {str: "string", bool: "bool", int: "integer", float: "double"}


def parameter_schema(
    node: str = "llm",
    specs: Mapping[str, Spec] = SPECS,
    defaults: object = DEFAULTS,
    others: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """A draft-07 schema in the form that Autoware checks its parameter files with.

    No parameter is required: a file sets those that it changes, the others have their defaults.
    ``live`` is our own annotation, which validators pass over.

    Args:
        node: name of the node that the parameters are of.
        specs: its parameters.
        defaults: has an attribute of each parameter's name.
        others: schemas of what is no parameter of a fixed name.
    """
    parameters = {name: _property(spec, getattr(defaults, name)) for name, spec in specs.items()}
    parameters |= others
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Parameters of the node {node} of timebill_ros",
        "type": "object",
        "definitions": {
            node: {"type": "object", "properties": parameters, "additionalProperties": False}
        },
        "properties": {
            "/**": {
                "type": "object",
                "properties": {"ros__parameters": {"$ref": f"#/definitions/{node}"}},
                "required": ["ros__parameters"],
                "additionalProperties": False,
            }
        },
        "required": ["/**"],
        "additionalProperties": False,
    }


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _property(spec: Spec, default: object) -> dict[str, Any]:
    several = isinstance(default, tuple)
    described = spec.description
    if spec.constraints:
        described = f"{described} Must be: {spec.constraints}."
    shown: dict[str, Any] = {
        "type": "array" if several else _JSON_TYPES[type(default)],
        "description": described,
        "default": list(default) if isinstance(default, tuple) else default,
        "live": spec.live,
    }
    if several:
        shown["items"] = {"type": "string"}
    if spec.range is not None:
        shown |= {"minimum": spec.range.low, "maximum": spec.range.high}
    if spec.choices:
        shown["enum"] = list(spec.choices)
    return shown


def parameter_table(specs: Mapping[str, Spec] = SPECS, defaults: object = DEFAULTS) -> str:
    """A table in Markdown: name, type, default, bounds and meaning of every parameter.

    It marks those that can be changed while the node is active.

    ``defaults`` has an attribute of each parameter's name.
    """
    rows = ["| parameter | type | default | range | live | meaning |", "|---|---|---|---|---|---|"]
    for name, spec in specs.items():
        default = getattr(defaults, name)
        kind = "string array" if isinstance(default, tuple) else _ROS_TYPES[type(default)]
        shown = json.dumps(default)
        live = "yes" if spec.live else ""
        rows.append(
            f"| `{name}` | {kind} | `{shown}` | {_bounds(spec)} | {live} | {spec.description} |"
        )
    return "\n".join(rows)


def _bounds(spec: Spec) -> str:
    parts = []
    if spec.range is not None:
        parts.append(f"{spec.range.low} .. {spec.range.high}")
    if spec.stated_constraints:
        parts.append(spec.stated_constraints)
    return ", ".join(parts)


def print_requested(schema: Mapping[str, Any], table: str) -> None:
    """Print a schema as its file holds it, or with ``--table`` a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--table", action="store_true", help="the table of the docs, not the schema"
    )
    print(f"{table}\n" if parser.parse_args().table else schema_text(schema), end="")


if __name__ == "__main__":
    print_requested(parameter_schema(), parameter_table())
