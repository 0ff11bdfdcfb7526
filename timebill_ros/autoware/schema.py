# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the adapter's parameter files: ``python -m timebill_ros.autoware.schema``."""

from __future__ import annotations

from typing import Any

from timebill_ros.autoware.settings import DEFAULTS, SPECS
from timebill_ros.node.parameter_schema import parameter_schema, schema_text

_POSES = {
    "type": "object",
    "description": "The pose of each goal, by name: x, y, z in m, yaw in rad.",
    "additionalProperties": {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
    },
}


def adapter_schema() -> dict[str, Any]:
    """The schema of the adapter's parameters, the goals' poses among them."""
    return parameter_schema("autoware_adapter", SPECS, DEFAULTS, {"pose": _POSES})


if __name__ == "__main__":
    print(schema_text(adapter_schema()), end="")
