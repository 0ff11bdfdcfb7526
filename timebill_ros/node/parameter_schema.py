# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of parameter files: ``python -m timebill_ros.node.parameter_schema``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from timebill_ros.node.parameter_specs import DEFAULTS, SPECS, Spec

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}


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


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _property(spec: Spec, default: object) -> dict[str, Any]:
    several = isinstance(default, tuple)
    described = spec.description
    if spec.constraints:
        described = f"{described} Must be: {spec.constraints}."
    shown: dict[str, Any] = {
        "type": "array" if several else _TYPES[type(default)],
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


if __name__ == "__main__":
    print(schema_text(parameter_schema()), end="")
