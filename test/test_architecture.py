# SPDX-License-Identifier: Apache-2.0
"""The rules that keep the layout an honest picture of the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "timebill_ros"
SOURCE_TREE = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for path in (SOURCE_TREE / PACKAGE).rglob("*.py")
    if path.relative_to(SOURCE_TREE / PACKAGE).parts[0] != "msg"  # generated
)
PYTHON_FILES = [
    *SOURCES,
    *sorted(SOURCE_TREE.glob("*.py")),
    *(
        path
        for room in ("test", "benchmarks", "launch")
        for path in (SOURCE_TREE / room).rglob("*.py")
    ),
]

# Which other rooms a room may import: node, cli -> runtime -> engine, predictor -> budget.
ROOMS = {
    "budget": set(),
    "workload": set(),
    "engine": {"budget"},
    "predictor": {"budget"},
    "runtime": {"budget", "engine", "predictor"},
    "embedded": {"budget", "engine", "predictor", "workload"},
    "node": {"budget", "engine", "predictor", "runtime", "embedded", "msg"},
    "cli": {"budget", "engine", "predictor", "runtime", "embedded", "workload", "node", "msg"},
}
ROS_ROOMS = {"node", "cli"}
ROS_MODULES = {"ament_index_python", "builtin_interfaces", "launch", "launch_ros", "rclpy"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
MOST_LINES = 350


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def room_of(path: Path) -> str:
    """The room that a source file lies in; a file beside the rooms has none ("")."""
    parts = path.relative_to(SOURCE_TREE / PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at any depth, relative imports resolved."""
    package = path.relative_to(SOURCE_TREE).parent.parts
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def is_ros(module: str) -> bool:
    top = module.split(".")[0]
    return top in ROS_MODULES or top.endswith("_msgs") or module.startswith(f"{PACKAGE}.msg")


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE_TREE))


def test_every_folder_is_a_room_with_a_rule() -> None:
    assert {room_of(path) for path in SOURCES} - {""} <= ROOMS.keys()


def test_the_rules_allow_no_circle() -> None:
    below: set[str] = {"msg"}
    left = dict(ROOMS)
    while ready := {room for room, allowed in left.items() if allowed <= below}:
        below |= ready
        left = {room: allowed for room, allowed in left.items() if room not in ready}
    assert not left


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p)], ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    ours = {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE}.")}
    assert ours <= ROOMS[room_of(path)] | {room_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_node_and_cli_know_ros(path: Path) -> None:
    if room_of(path) not in ROS_ROOMS:
        assert not {name for name in imports(path) if is_ros(name)}


@pytest.mark.parametrize("path", [p for p in SOURCES if room_of(p) == "budget"], ids=relative)
def test_budget_needs_numpy_at_most(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops - sys.stdlib_module_names <= {"numpy", PACKAGE}


def test_scheduling_runs_without_torch_and_ros() -> None:
    """A simulation of thousands of jobs, or a planner alone, must not load a framework."""
    modules = "timebill_ros.runtime.simulation, timebill_ros.runtime.worker"
    frameworks = "{'torch', 'transformers', 'rclpy'}"
    code = f"import sys, {modules}; print(*sorted({frameworks} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=relative)
def test_a_room_itself_imports_nothing(path: Path) -> None:
    body = tree(path).body
    assert ast.get_docstring(tree(path))
    assert len(body) == 1


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_a_file_is_short_named_for_its_subject_and_licensed(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert path.stem not in VAGUE_NAMES
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_no_file_measures_with_the_wall_clock(path: Path) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & {"time.time", "time.time_ns"}
    assert not imports(path) & {"time.time", "time.time_ns"}
