# SPDX-License-Identifier: Apache-2.0
"""The rules that keep the layout an honest picture of the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE = "timebill_ros"
SOURCE_TREE = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for path in (SOURCE_TREE / PACKAGE).rglob("*.py")
    if path.relative_to(SOURCE_TREE / PACKAGE).parts[0] not in ("msg", "action")  # generated
)
PYTHON_FILES = [
    *SOURCES,
    *sorted(SOURCE_TREE.glob("*.py")),
    *(
        path
        for room in ("test", "benchmarks", "examples", "launch")
        for path in (SOURCE_TREE / room).rglob("*.py")
    ),
]

# Which other rooms a room may import: cli, replay, autoware, client, node -> runtime -> engine,
# predictor -> budget. Training stands apart: nothing that runs on a robot imports it.
ROOMS = {
    "budget": set(),
    "workload": set(),
    "embedded": set(),
    "engine": {"budget"},
    "predictor": {"budget"},
    "runtime": {"budget", "engine", "predictor"},
    "node": {"budget", "engine", "predictor", "runtime", "msg", "action"},
    "client": {"budget", "engine", "runtime", "node", "msg", "action"},
    "autoware": {"budget", "runtime", "node", "workload", "msg"},
    "replay": {"budget", "engine", "runtime", "node", "client", "msg"},
    "cli": {
        *("budget", "engine", "predictor", "runtime", "workload"),
        *("node", "client", "replay", "msg", "action"),
    },
    "training": {
        *("budget", "engine", "predictor", "runtime", "workload"),
        *("node", "client", "replay", "cli", "msg"),
    },
}
ROS_ROOMS = {"node", "client", "autoware", "replay", "cli", "training"}
ROS_MODULES = {"ament_index_python", "builtin_interfaces", "launch", "launch_ros", "rclpy"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
MOST_LINES = 350
LICENSE_LINE = "# SPDX-License-Identifier: Apache-2.0"


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
    generated = (f"{PACKAGE}.msg", f"{PACKAGE}.action")
    return top in ROS_MODULES or top.endswith("_msgs") or module.startswith(generated)


def loaded_by(*modules: str) -> set[str]:
    """The names of all modules that a process which imports these has loaded."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def offenders(found: Mapping[Path, object]) -> dict[str, object]:
    """What breaks a rule, by file: empty where the rule holds."""
    return {str(path.relative_to(SOURCE_TREE)): what for path, what in found.items() if what}


def test_every_folder_is_a_room_with_a_rule() -> None:
    assert {room_of(path) for path in SOURCES} - {""} <= ROOMS.keys()


def test_the_rules_allow_no_circle() -> None:
    below: set[str] = {"msg", "action"}
    left = dict(ROOMS)
    while ready := {room for room, allowed in left.items() if allowed <= below}:
        below |= ready
        left = {room: allowed for room, allowed in left.items() if room not in ready}
    assert not left


def test_imports_point_one_way() -> None:
    found = {}
    for path in SOURCES:
        ours = {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE}.")}
        if room := room_of(path):
            found[path] = ours - ROOMS[room] - {room}
    assert offenders(found) == {}


def test_only_the_rooms_at_the_top_know_ros() -> None:
    found = {
        path: {name for name in imports(path) if is_ros(name)}
        for path in SOURCES
        if room_of(path) not in ROS_ROOMS
    }
    assert offenders(found) == {}


def test_budget_needs_numpy_at_most() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", PACKAGE}
    found = {
        path: {name for name in imports(path) if name.split(".")[0] not in allowed}
        for path in SOURCES
        if room_of(path) == "budget"
    }
    assert offenders(found) == {}


def test_scheduling_runs_without_torch_and_ros() -> None:
    """A simulation of thousands of jobs, or a planner alone, must not load a framework."""
    loaded = loaded_by("timebill_ros.runtime.simulation", "timebill_ros.runtime.serving_threads")
    assert loaded & {"torch", "transformers", "rclpy"} == set()


def test_a_room_itself_holds_a_docstring_only() -> None:
    """So that importing one light module of a room never loads a heavy one.

    All but the client: users import it, and should rely on no module's name in it. It may name what
    it offers, since no module of it is heavy.
    """
    offers = SOURCE_TREE / PACKAGE / "client" / "__init__.py"
    found = {
        path: not ast.get_docstring(tree(path)) or (len(tree(path).body) > 1 and path != offers)
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert offenders(found) == {}
    assert loaded_by("timebill_ros.client") & {"torch", "transformers"} == set()


def test_files_are_short_licensed_and_named_for_their_subject() -> None:
    found: dict[Path, list[str]] = {}
    for path in PYTHON_FILES:
        lines = path.read_text().splitlines()
        found[path] = [
            *([f"{len(lines)} lines"] if len(lines) > MOST_LINES else []),
            *(["a vague name"] if path.stem in VAGUE_NAMES else []),
            *(["no license line"] if lines[:1] != [LICENSE_LINE] else []),
        ]
    assert offenders(found) == {}


def test_no_file_measures_with_the_wall_clock() -> None:
    wall_clock = {"time.time", "time.time_ns"}
    found = {}
    for path in PYTHON_FILES:
        calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        found[path] = wall_clock & ({ast.unparse(call) for call in calls} | imports(path))
    assert offenders(found) == {}
