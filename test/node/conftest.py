# SPDX-License-Identifier: Apache-2.0
"""ROS contexts that neither see nor disturb another test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.context import Context

from .bench import Bench


@pytest.fixture(scope="session")
def profile_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles shared by this session's tests, so that only the first one measures."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture
def bench(ros_context: Context, profile_cache: Path) -> Iterator[Bench]:
    bench = Bench(ros_context, profile_cache)
    yield bench
    bench.close()
