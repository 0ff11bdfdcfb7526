# SPDX-License-Identifier: Apache-2.0
"""The rules that keep the layout an honest picture of the architecture."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from .rooms import PACKAGE, ROOT, imports, room_of, rooms_of, sources

SOURCES = sources(ROOT)
PYTHON_FILES = [
    *SOURCES,
    *sorted(ROOT.glob("*.py")),
    *(
        path
        for room in ("test", "benchmarks", "examples", "launch")
        for path in (ROOT / room).rglob("*.py")
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
    "selection": {"budget"},
    "runtime": {"budget", "engine", "predictor", "selection"},
    "node": {"budget", "engine", "predictor", "runtime", "selection", "msg", "action", "srv"},
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
    "bench": {
        *("budget", "engine", "predictor", "selection", "runtime", "workload"),
        *("node", "cli", "replay", "training"),
    },
}
ROS_ROOMS = {"node", "client", "autoware", "replay", "cli", "training", "bench"}
ROS_MODULES = {"ament_index_python", "builtin_interfaces", "launch", "launch_ros", "rclpy"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
MOST_LINES = 350
LICENSE_LINE = "# SPDX-License-Identifier: Apache-2.0"


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def is_ros(module: str) -> bool:
    top = module.split(".")[0]
    generated = (f"{PACKAGE}.msg", f"{PACKAGE}.action", f"{PACKAGE}.srv")
    return top in ROS_MODULES or top.endswith("_msgs") or module.startswith(generated)


def loaded_by(*modules: str) -> set[str]:
    """The names of all modules that a process which imports these has loaded."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def offenders(found: Mapping[Path, object]) -> dict[str, object]:
    """What breaks a rule, by file: empty where the rule holds."""
    return {str(path.relative_to(ROOT)): what for path, what in found.items() if what}


def test_every_folder_is_a_room_with_a_rule() -> None:
    assert {room_of(ROOT, path) for path in SOURCES} - {""} <= ROOMS.keys()


def test_the_rules_allow_no_circle() -> None:
    below: set[str] = {"msg", "action", "srv"}
    left = dict(ROOMS)
    while ready := {room for room, allowed in left.items() if allowed <= below}:
        below |= ready
        left = {room: allowed for room, allowed in left.items() if room not in ready}
    assert not left


def test_imports_point_one_way() -> None:
    found = {}
    for path in SOURCES:
        if room := room_of(ROOT, path):
            found[path] = rooms_of(imports(ROOT, path)) - ROOMS[room] - {room}
    assert offenders(found) == {}


def test_only_the_rooms_at_the_top_know_ros() -> None:
    found = {
        path: {name for name in imports(ROOT, path) if is_ros(name)}
        for path in SOURCES
        if room_of(ROOT, path) not in ROS_ROOMS
    }
    assert offenders(found) == {}


def test_budget_needs_numpy_at_most() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", PACKAGE}
    found = {
        path: {name for name in imports(ROOT, path) if name.split(".")[0] not in allowed}
        for path in SOURCES
        if room_of(ROOT, path) == "budget"
    }
    assert offenders(found) == {}


def test_scheduling_runs_without_torch_and_ros() -> None:
    """A simulation of thousands of jobs, or a planner alone, must not load a framework."""
    loaded = loaded_by("timebill_ros.runtime.simulation", "timebill_ros.runtime.serving_threads")
    assert loaded & {"torch", "transformers", "rclpy"} == set()


def test_what_runs_on_a_robot_loads_nothing_of_training() -> None:
    """The node may load what transformers finds installed; the others need no framework."""
    only_training = {"timebill_ros.training", "rouge_score", "rapidfuzz"}
    node = loaded_by("timebill_ros.node.main", "timebill_ros.runtime.loading")
    assert node & only_training == set()
    light = loaded_by("timebill_ros.client", "timebill_ros.autoware.adapter_node")
    assert light & {*only_training, "torch", "transformers", "datasets", "accelerate"} == set()


def test_a_public_class_has_a_name_of_its_own() -> None:
    """But for a message and the value that it carries, told apart as msg.Response and Response."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(path.relative_to(ROOT / PACKAGE).as_posix())
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_a_message_is_called_by_its_room() -> None:
    """Always msg.Response: a value of the same name is then never taken for it."""
    found = {
        path: {name for name in imports(ROOT, path) if name.startswith(f"{PACKAGE}.msg.")}
        for path in SOURCES
    }
    assert offenders(found) == {}


def test_a_room_itself_holds_a_docstring_only() -> None:
    """So that importing one light module of a room never loads a heavy one.

    All but the client: users import it, and should rely on no module's name in it. It may name what
    it offers, since no module of it is heavy.
    """
    offers = ROOT / PACKAGE / "client" / "__init__.py"
    found = {
        path: not ast.get_docstring(tree(path)) or (len(tree(path).body) > 1 and path != offers)
        for path in SOURCES
        if path.name == "__init__.py"
    }
    assert offenders(found) == {}
    assert loaded_by("timebill_ros.client") & {"torch", "transformers"} == set()


def test_tests_reach_no_private_attribute() -> None:
    """What a test needs is passed into a constructor, or published."""
    public = {"_asdict", "_replace", "_fields"}  # of named tuples
    found = {}
    for path in (ROOT / "test").rglob("*.py"):
        reached = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
        found[path] = {
            ast.unparse(node)
            for node in reached
            if node.attr.startswith("_")
            and not node.attr.endswith("__")
            and node.attr not in public
            and ast.unparse(node.value) not in ("self", "cls")
        }
    assert offenders(found) == {}


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
        found[path] = wall_clock & ({ast.unparse(call) for call in calls} | imports(ROOT, path))
    assert offenders(found) == {}
