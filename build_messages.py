# SPDX-License-Identifier: Apache-2.0
"""Builds the messages of msg/, action/ and srv/ with CMake, as a `build_ext` command for setup.py.

An ament_python package has no CMake step of its own, and rosidl has no other way to generate
messages. So this command gives CMake a small source folder (those two and package.xml), stages its
install inside the build folder and hands the results to setuptools: the Python modules and type
supports join the package, everything else (libraries, headers, share/) joins `data_files`. The
same command serves `pip install .` and `colcon build`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

PACKAGE = "timebill_ros"
INTERFACES = ("msg", "action", "srv")
SOURCE = Path(__file__).resolve().parent


class BuildMessages(build_ext):
    """Generates, compiles and collects the messages; does nothing again while inputs stay equal."""

    def initialize_options(self) -> None:
        """Start without modules: `get_outputs` may be asked before anything is built."""
        super().initialize_options()
        self._modules: list[Path] = []

    def run(self) -> None:
        """Put the modules into `build_lib` (or the source tree, in place) and extend data_files."""
        prefixes = ament_prefixes()
        stage = self._staged(prefixes)
        package = SOURCE / PACKAGE if self.inplace else Path(self.build_lib) / PACKAGE
        self._modules = copy_modules(stage / "python" / PACKAGE, package)
        self.distribution.data_files = [*(self.distribution.data_files or []), *data_files(stage)]

    def get_outputs(self) -> list[str]:
        """Return the module files, so that `install --record` lists them."""
        return [str(path) for path in self._modules]

    def _staged(self, prefixes: list[Path]) -> Path:
        """Return the folder with CMake's finished install, building it unless it is there."""
        builds = Path(self.build_temp).resolve()
        build = builds / f"messages-{digest(prefixes)}"
        stage = build / "stage"
        if not stage.exists():
            for stale in builds.glob("messages-*"):
                shutil.rmtree(stale)
            unfinished = build / "unfinished"
            run_cmake(build, unfinished, prefixes)
            unfinished.rename(stage)
        # Relative, as data_files must be: setuptools looks there from the project's folder.
        return Path(os.path.relpath(stage))


def ament_prefixes() -> list[Path]:
    """Return the sourced ROS prefixes, then this interpreter's own one where it holds ROS.

    The interpreter's prefix comes from its path: colcon overrides `sys.prefix`.
    """
    sourced = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    own = Path(sys.executable).absolute().parent.parent
    candidates = [*(Path(prefix) for prefix in sourced if prefix), own]
    index = Path("share", "ament_index", "resource_index")
    prefixes = [prefix for prefix in dict.fromkeys(candidates) if (prefix / index).is_dir()]
    if not any((prefix / "share/rosidl_default_generators").is_dir() for prefix in prefixes):
        raise SetupError(
            "rosidl_default_generators not found: source a ROS 2 environment, or install "
            "requirements/ros.txt into this Python environment, before building timebill_ros"
        )
    return prefixes


def digest(prefixes: list[Path]) -> str:
    """Return a name for what the build depends on: interpreter, ROS prefixes, message sources."""
    state = hashlib.sha256(repr([sys.executable, sys.version, *map(str, prefixes)]).encode())
    for path in sources():
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:12]


def sources() -> list[Path]:
    """Return the files that CMake reads, and this one, which says how it runs."""
    interfaces = [path for kind in INTERFACES for path in sorted((SOURCE / kind).iterdir())]
    return [*interfaces, SOURCE / "package.xml", Path(__file__)]


def run_cmake(build: Path, stage: Path, prefixes: list[Path]) -> None:
    """Configure, compile and install the message package into `stage`."""
    if shutil.which("cmake") is None:
        raise SetupError("cmake not found: install cmake and a C++ compiler to build the messages")
    source = build / "source"
    for kind in INTERFACES:
        shutil.copytree(SOURCE / kind, source / kind)
    shutil.copy2(SOURCE / "package.xml", source)
    (source / "msg" / "CMakeLists.txt").rename(source / "CMakeLists.txt")
    environment = cmake_environment(prefixes)
    for command in (
        ["cmake", "-S", source, "-B", build / "cmake", *cmake_options(stage)],
        ["cmake", "--build", build / "cmake", "--parallel", str(os.cpu_count() or 1)],
        ["cmake", "--install", build / "cmake"],
    ):
        try:
            subprocess.run(command, env=environment, check=True)
        except subprocess.CalledProcessError as error:
            raise SetupError(
                f"building the messages failed: {' '.join(map(str, command))}"
            ) from error


def cmake_options(stage: Path) -> list[str]:
    """Return the -D options: this interpreter, no tests, libraries found beside each other."""
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_INSTALL_PREFIX": stage,
        # From lib/ itself and from lib/pythonX.Y/site-packages/timebill_ros/.
        "CMAKE_INSTALL_RPATH": "$ORIGIN:$ORIGIN/../../..",
        "PYTHON_INSTALL_DIR": "python",
        "Python3_EXECUTABLE": sys.executable,
        "BUILD_TESTING": "OFF",
    }
    if (Path(sys.executable).absolute().parent.parent / "pyvenv.cfg").exists():
        options["Python3_FIND_VIRTUALENV"] = "ONLY"
    return [f"-D{name}={value}" for name, value in options.items()]


def cmake_environment(prefixes: list[Path]) -> dict[str, str]:
    """Return the environment in which CMake and the generators see ROS, and nothing of pip's.

    pip isolates a build through PYTHONPATH, which would hide the generators' own Python packages.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = (f"lib/{version}/site-packages", f"local/lib/{version}/dist-packages")
    packages = [prefix / folder for prefix in prefixes for folder in folders]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    environment["AMENT_PREFIX_PATH"] = os.pathsep.join(map(str, prefixes))
    environment["CMAKE_PREFIX_PATH"] = environment["AMENT_PREFIX_PATH"]
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in packages if path.is_dir())
    return environment


def copy_modules(generated: Path, package: Path) -> list[Path]:
    """Copy the generated modules into the package; return the copies.

    The generated `__init__.py` of the package stays behind: it would replace the package's own.
    """
    copies = []
    for path in sorted(generated.rglob("*")):
        relative = path.relative_to(generated)
        if path.suffix in (".py", ".so") and relative != Path("__init__.py"):
            copy = package / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
            copies.append(copy)
    return copies


def data_files(stage: Path) -> list[tuple[str, list[str]]]:
    """Return what CMake installed besides Python, as (folder, files) pairs for `data_files`.

    Left out are the shell hooks and the package's own manifest and marker, which colcon and
    setup.py install for an ament_python package.
    """
    share = stage / "share" / PACKAGE
    wanted = [
        *(stage / "lib").glob("lib*.so"),
        *(stage / "include").rglob("*"),
        *(path for kind in INTERFACES for path in (share / kind).iterdir()),
        *(share / "cmake").iterdir(),
        stage / "share/ament_index/resource_index/rosidl_interfaces" / PACKAGE,
    ]
    folders: dict[str, list[str]] = {}
    for path in wanted:
        if path.is_file():
            folders.setdefault(str(path.parent.relative_to(stage)), []).append(str(path))
    return sorted((folder, sorted(files)) for folder, files in folders.items())
