# SPDX-License-Identifier: Apache-2.0
"""The README's table of parameters: ``python -m timebill_ros.node.parameter_table``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from timebill_ros.node.parameter_specs import DEFAULTS, SPECS, Spec


def parameter_table(specs: Mapping[str, Spec] = SPECS, defaults: object = DEFAULTS) -> str:
    """Markdown: every parameter's name, type, default, bounds and meaning; live ones marked.

    ``defaults`` has an attribute of each parameter's name.
    """
    rows = ["| parameter | type | default | range | live | meaning |", "|---|---|---|---|---|---|"]
    for name, spec in specs.items():
        default = getattr(defaults, name)
        kind = "string array" if isinstance(default, tuple) else _TYPES[type(default)]
        shown = json.dumps(default)
        live = "yes" if spec.live else ""
        rows.append(
            f"| `{name}` | {kind} | `{shown}` | {_bounds(spec)} | {live} | {spec.description} |"
        )
    return "\n".join(rows)


_TYPES = {str: "string", bool: "bool", int: "integer", float: "double"}


def _bounds(spec: Spec) -> str:
    parts = []
    if spec.range is not None:
        parts.append(f"{spec.range.low} .. {spec.range.high}")
    if spec.stated_constraints:
        parts.append(spec.stated_constraints)
    return ", ".join(parts)


if __name__ == "__main__":
    print(parameter_table())
