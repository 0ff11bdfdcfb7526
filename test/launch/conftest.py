# SPDX-License-Identifier: Apache-2.0
"""What every launch is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def param_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a parameter file for a node that is soon ready and leaves nothing behind."""

    def write(**parameters: object) -> str:
        quick = {"profile_cache": str(tmp_path), "profile_seconds": 1.0, "threads": 1}
        lines = [f"    {name}: {value}" for name, value in {**quick, **parameters}.items()]
        path = tmp_path / "test.param.yaml"
        path.write_text("\n".join(["/**:", "  ros__parameters:", *lines, ""]))
        return str(path)

    return write
