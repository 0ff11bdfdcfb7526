# SPDX-License-Identifier: Apache-2.0
"""What the XML launch file says, where ROS 2's launch is not installed to load it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from timebill_ros.__main__ import MODULES
from timebill_ros.autoware import adapter_node, surroundings, vehicle

from .test_llm_launch_file import declared

SOURCE_TREE = Path(__file__).resolve().parents[2]
ROOT = ElementTree.parse(SOURCE_TREE / "launch" / "autoware.launch.xml").getroot()
NODE = ROOT.find("node")
ARGUMENTS = {argument.get("name"): argument for argument in ROOT.findall("arg")}


def test_every_argument_has_a_default_and_a_description() -> None:
    assert ARGUMENTS
    assert all(a.get("default") is not None and a.get("description") for a in ARGUMENTS.values())


def test_only_declared_arguments_are_used() -> None:
    used = re.findall(r"\$\(var (\w+)\)", ElementTree.tostring(ROOT, encoding="unicode"))
    assert set(used) == set(ARGUMENTS)


def test_what_is_included_takes_the_arguments_that_it_is_given() -> None:
    [include] = ROOT.findall("include")
    assert include.get("file").endswith("/launch/llm.launch.py")
    assert {argument.get("name") for argument in include.findall("arg")} <= declared().keys()


def test_the_adapter_s_private_topics_are_all_remapped() -> None:
    sources = [adapter_node.__file__, surroundings.__file__, vehicle.__file__]
    text = "".join(Path(source).read_text() for source in sources)
    names = set(re.findall(r'"(~/(?:input|output)/\w+)"', text))
    inputs = re.findall(r'^            \("(\w+)", ', text, re.MULTILINE)
    names |= {f"~/input/{name}" for name in inputs}
    assert len(names) == 9
    assert {remap.get("from") for remap in NODE.findall("remap")} == names


def test_both_nodes_get_their_names_and_find_each_other_by_them() -> None:
    [include] = ROOT.findall("include")
    given = {argument.get("name"): argument.get("value") for argument in include.findall("arg")}
    assert given["namespace"] == NODE.get("namespace") == "$(var namespace)"
    assert given["node_name"] == "$(var llm_node_name)"
    assert NODE.get("name") == "$(var adapter_node_name)"
    # Names without a slash before them are in the namespace that both have.
    joined = {remap.get("to") for remap in NODE.findall("remap")}
    topics = ("input/instruction", "output/response", "output/overrun")
    assert {f"$(var llm_node_name)/{topic}" for topic in topics} <= joined


def test_a_clock_that_is_set_for_all_nodes_stands_unless_the_launch_is_told() -> None:
    """A parameter of a node would win over it, whatever its value is."""
    assert ARGUMENTS["use_sim_time"].get("default") == ""
    [clock] = [p for p in NODE.findall("param") if "use_sim_time" in (p.get("name") or "")]
    expression = clock.get("name").removeprefix('$(eval "').removesuffix('")')
    given, empty = (expression.replace("$(var use_sim_time)", value) for value in ("true", ""))
    assert ast.literal_eval(expression.partition(" if ")[0]) == "use_sim_time"
    assert eval(given) == "use_sim_time"
    assert eval(empty) != "use_sim_time"


def test_the_executable_is_the_package_s_own() -> None:
    assert (NODE.get("pkg"), NODE.get("exec")) == ("timebill_ros", "autoware_adapter")
    assert NODE.get("exec") in MODULES


@pytest.mark.parametrize("name", ["llm", "adapter", "context"])
def test_the_parameter_files_come_with_the_package(name: str) -> None:
    default = ARGUMENTS[f"{name}_param_file"].get("default")
    start = "$(find-pkg-share timebill_ros)/"
    assert default.startswith(start)
    assert (SOURCE_TREE / default.removeprefix(start)).is_file()
