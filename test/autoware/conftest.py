# SPDX-License-Identifier: Apache-2.0
"""Autoware's message packages: the installed ones, otherwise those of the same names and fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.context import Context

from .fake_autoware import FakeAutoware
from .interface_build import built_prefix, installed, load


@pytest.fixture(scope="session")
def interfaces() -> Path | None:
    """The prefix with the generated packages, which this process can import; None: installed."""
    if installed():
        return None
    prefix = built_prefix()
    load(prefix)
    return prefix


@pytest.fixture
def autoware(interfaces: Path | None, ros_context: Context) -> Iterator[FakeAutoware]:
    """A whole one, without an adapter yet."""
    fake = FakeAutoware(ros_context)
    yield fake
    fake.close()
