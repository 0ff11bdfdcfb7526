# SPDX-License-Identifier: Apache-2.0
"""One running node per module, whose client every test gets anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from timebill_ros.client.client import InstructionClient

from .subject import Subject


@pytest.fixture(scope="session")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the nodes of this session keep their profiles: only the first one measures."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def node(profiles: Path) -> Iterator[Subject]:
    """A node in a process and on a domain of its own, not configured yet."""
    with Subject(profiles) as node:
        yield node


@pytest.fixture
def client(node: Subject) -> Iterator[InstructionClient]:
    """A client that the node hears; the node is active, with its default parameters."""
    node.serve()
    with node.client() as client:
        yield client
