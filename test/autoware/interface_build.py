# SPDX-License-Identifier: Apache-2.0
"""Real message packages of Autoware's names, generated from the definitions in interfaces/.

Autoware's own packages are not on PyPI. These hold what the adapter uses of them: names, fields and
constants as documented (autoware_adapi_v1_msgs 1.9, autoware_internal_planning_msgs 1.12). They are
built once, with the rosidl that builds our own messages, and kept in the build folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

SOURCE_TREE = Path(__file__).resolve().parents[2]
DEFINITIONS = Path(__file__).resolve().parent / "interfaces"
PACKAGES = tuple(sorted(path.parent.name for path in DEFINITIONS.glob("*/package.xml")))
# Name of the folder that they are built in, before its digest.
BUILD = "autoware-interfaces-"
# A cold build takes a minute on four busy cores.
TIMEOUT = 600.0


def installed() -> bool:
    """Whether this Python has Autoware's own packages, and not only loaded the generated ones."""
    specs = [importlib.util.find_spec(package) for package in PACKAGES]
    return all(spec is not None and BUILD not in str(spec.origin) for spec in specs)


def built_prefix(builds: Path = SOURCE_TREE / "build") -> Path:
    """The prefix that holds the generated packages, building it unless it is there.

    Raises:
        subprocess.CalledProcessError: CMake failed.
    """
    build = _build_messages()
    prefixes = build.ament_prefixes()
    folder = builds / f"{BUILD}{_digest(prefixes)}"
    prefix = folder / "prefix"
    if not prefix.exists():
        for stale in builds.glob(f"{BUILD}*"):
            shutil.rmtree(stale)
        unfinished = folder / "unfinished"
        for package in PACKAGES:
            _build(build, package, folder / package, unfinished, prefixes)
        unfinished.rename(prefix)
    return prefix


def environment(prefix: Path) -> dict[str, str]:
    """What a process needs to find the packages, beside what this one has."""
    added = {"PYTHONPATH": prefix / "python", "LD_LIBRARY_PATH": prefix / "lib"}
    joined = {
        name: os.pathsep.join(filter(None, [str(folder), os.environ.get(name)]))
        for name, folder in added.items()
    }
    return {**os.environ, **joined}


def load(prefix: Path) -> None:
    """Let this process import the packages.

    Their libraries are looked up by name alone, in places that are read when a process starts; what
    is loaded already is found in any case.
    """
    sys.path.append(str(prefix / "python"))
    waiting = sorted((prefix / "lib").glob("lib*.so"))
    while waiting:
        left = [library for library in waiting if not _loads(library)]
        if len(left) == len(waiting):
            raise OSError(f"{left[0]} cannot be loaded")
        waiting = left


def _loads(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _build(
    build: ModuleType, package: str, folder: Path, prefix: Path, prefixes: list[Path]
) -> None:
    source = folder / "source"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DEFINITIONS / package, source)
    shutil.copy2(DEFINITIONS / "CMakeLists.txt", source)
    manifest = ElementTree.parse(source / "package.xml")
    needs = ";".join(str(entry.text) for entry in manifest.iter("depend"))
    options = [
        *build.cmake_options(prefix.resolve()),
        "-DCMAKE_BUILD_TYPE=None",
        # From lib/ itself and from python/<package>/.
        "-DCMAKE_INSTALL_RPATH=$ORIGIN:$ORIGIN/../../lib",
        f"-DPACKAGE={package}",
        f"-DNEEDS={needs}",
    ]
    for command in (
        ["cmake", "-S", source, "-B", folder / "cmake", *options],
        ["cmake", "--build", folder / "cmake", "--parallel", str(os.cpu_count() or 1)],
        ["cmake", "--install", folder / "cmake"],
    ):
        subprocess.run(
            command,
            env=build.cmake_environment(prefixes),
            check=True,
            timeout=TIMEOUT,
            stdout=subprocess.DEVNULL,
        )


def _digest(prefixes: list[Path]) -> str:
    """A name for what the build depends on: interpreter, ROS prefixes, definitions."""
    state = hashlib.sha256(repr([sys.executable, sys.version, *map(str, prefixes)]).encode())
    definitions = [path for path in sorted(DEFINITIONS.rglob("*")) if path.is_file()]
    for path in definitions:
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:12]


def _build_messages() -> ModuleType:
    """The module beside setup.py, which is not installed."""
    path = SOURCE_TREE / "build_messages.py"
    spec = importlib.util.spec_from_file_location("build_messages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
