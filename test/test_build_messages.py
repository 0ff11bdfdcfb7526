# SPDX-License-Identifier: Apache-2.0
"""The build's decisions that no installed package shows; building itself is `make setup`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from setuptools.errors import SetupError

SOURCE_TREE = Path(__file__).resolve().parents[1]


@pytest.fixture
def build() -> ModuleType:
    """The module beside setup.py, which is not installed."""
    spec = importlib.util.spec_from_file_location(
        "build_messages", SOURCE_TREE / "build_messages.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ros_prefix(folder: Path, *packages: str) -> Path:
    """A folder that looks like an ament prefix with these packages."""
    (folder / "share/ament_index/resource_index").mkdir(parents=True)
    for package in packages:
        (folder / "share" / package).mkdir()
    return folder


@pytest.fixture
def bare_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter whose own prefix holds no ROS."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "usr/bin/python3"))


@pytest.mark.usefixtures("bare_python")
def test_sourced_prefixes_are_used_in_their_order(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = ros_prefix(tmp_path / "overlay")
    underlay = ros_prefix(tmp_path / "underlay", "rosidl_default_generators")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{overlay}:{tmp_path / 'gone'}:{underlay}:{overlay}")
    assert build.ament_prefixes() == [overlay, underlay]


def test_a_virtual_environment_with_ros_counts_after_the_sourced_ones(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sourced = ros_prefix(tmp_path / "sourced", "rosidl_default_generators")
    own = ros_prefix(tmp_path / "venv")
    monkeypatch.setattr(sys, "executable", str(own / "bin/python"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(sourced))
    assert build.ament_prefixes() == [sourced, own]


@pytest.mark.usefixtures("bare_python")
def test_without_ros_the_message_says_what_to_do(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMENT_PREFIX_PATH")
    with pytest.raises(SetupError, match=r"source a ROS 2 environment.*requirements/ros\.txt"):
        build.ament_prefixes()


def test_cmake_does_not_see_pip_s_isolation(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = tmp_path / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", "isolated")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    environment = build.cmake_environment([tmp_path])
    assert environment["PYTHONPATH"] == str(packages)
    assert environment["CMAKE_PREFIX_PATH"] == environment["AMENT_PREFIX_PATH"] == str(tmp_path)
    assert "PYTHONHOME" not in environment


def test_changed_messages_or_prefixes_mean_another_build(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msg").mkdir()
    (tmp_path / "action").mkdir()
    (tmp_path / "srv").mkdir()
    (tmp_path / "package.xml").write_text("<package/>")
    (tmp_path / "msg" / "A.msg").write_text("uint8 a")
    monkeypatch.setattr(build, "SOURCE", tmp_path)
    digests = [build.digest([]), build.digest([Path("/ros")])]
    (tmp_path / "action" / "B.action").write_text("---\n---\n")
    digests.append(build.digest([]))
    (tmp_path / "msg" / "A.msg").write_text("uint16 a")
    digests.append(build.digest([]))
    (tmp_path / "msg" / "A.msg").write_text("uint8 a")
    assert len(set(digests)) == len(digests)
    (tmp_path / "action" / "B.action").unlink()
    assert build.digest([]) == digests[0]


def test_generated_modules_join_the_package_but_for_its_own_init(
    build: ModuleType, tmp_path: Path
) -> None:
    generated = tmp_path / "generated"
    (generated / "msg").mkdir(parents=True)
    for name in ("__init__.py", "support.so", "msg/__init__.py", "msg/_plan.py", "msg/_plan_s.c"):
        (generated / name).touch()
    copies = build.copy_modules(generated, tmp_path / "package")
    names = {str(path.relative_to(tmp_path / "package")) for path in copies}
    assert names == {"support.so", "msg/__init__.py", "msg/_plan.py"}
    assert all(path.is_file() for path in copies)
