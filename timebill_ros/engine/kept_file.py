# SPDX-License-Identifier: Apache-2.0
"""Keeping what was measured in a file, under a name that tells what it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Environment = Mapping[str, str | int]
"""Everything that a measurement depends on, by name."""

# What reading a file may raise that is not the one that was written: RecursionError for nesting
# that is too deep, OverflowError for numbers that are too large.
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
)  # fmt: skip


def kept_path(folder: Path, subject: str, environment: Environment) -> Path:
    """Where what was measured in this environment is kept."""
    text = json.dumps(dict(environment), sort_keys=True)
    return folder / f"{subject}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read_kept(path: Path, environment: Environment) -> dict[str, Any]:
    """The content of a file that was written for this environment; one of ``DAMAGED`` otherwise."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["environment"] != environment:
        raise ValueError("it was measured in another environment")
    return dict(content)


def write_kept(path: Path, environment: Environment, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, whoever else writes it.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False
    ) as file:
        part = Path(file.name)
        try:
            json.dump({"environment": dict(environment), **content}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
