# SPDX-License-Identifier: Apache-2.0
"""What the launch file's text promises, where ROS 2's launch is not installed to load it."""

from __future__ import annotations

import ast
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
from rclpy.action import ActionServer
from rclpy.node import Node

from timebill_ros.__main__ import MODULES
from timebill_ros.action import Instruct
from timebill_ros.client.session import Session, free_domain
from timebill_ros.node import instruct_action, instruction_service, llm_node
from timebill_ros.node import topics as node_topics
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.settings import ENGINES, Settings

SOURCE_TREE = Path(__file__).resolve().parents[2]
LAUNCH_FILE = SOURCE_TREE / "launch" / "llm.launch.py"
TREE = ast.parse(LAUNCH_FILE.read_text())
PARAMETERS = {name: type(value) for name, value in asdict(Settings()).items()}


def constant(name: str) -> ast.expr:
    """The value of a module's constant."""
    [value] = [
        node.value
        for node in TREE.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    return value


def calls(function: str) -> list[ast.Call]:
    """Every call of a function by its name."""
    nodes = [node for node in ast.walk(TREE) if isinstance(node, ast.Call)]
    return [call for call in nodes if ast.unparse(call.func) == function]


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def strings(path: str) -> set[str]:
    """Every string literal of a source file."""
    nodes = ast.walk(ast.parse(Path(path).read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def declared() -> dict[str, ast.expr]:
    """Every declared argument with its default and what is said of it."""
    table = constant("ARGUMENTS")
    return {name.value: said for name, said in zip(table.keys, table.values, strict=True)}


def test_every_argument_has_a_default_and_a_description() -> None:
    assert len(declared()) == 25
    assert {len(said.elts) for said in declared().values()} == {2}


def test_arguments_override_parameters_that_exist_with_their_types() -> None:
    types = {**PARAMETERS, "use_sim_time": bool}  # which every ROS node has
    named = {tuple: "List[str]"}
    overrides = constant("OVERRIDES")
    for argument, target in zip(overrides.keys, overrides.values, strict=True):
        parameter, value_type = target.elts
        assert argument.value in declared()
        wanted = types[parameter.value]
        assert named.get(wanted, wanted.__name__) == ast.unparse(value_type)


def test_arguments_remap_the_topics_that_the_node_has() -> None:
    topics = ast.literal_eval(constant("TOPICS"))
    used = strings(instruction_service.__file__) | strings(node_topics.__file__)
    used = {text for text in used if text.startswith(("~/input/", "~/output/"))}
    assert set(topics.values()) == used
    assert topics.keys() <= declared().keys()


def test_an_argument_remaps_every_part_of_the_action_that_the_node_has() -> None:
    argument, action = ast.literal_eval(constant("ACTION"))
    assert argument in declared()
    assert action in strings(instruct_action.__file__)
    rules = [
        f"{action}/_action/{part}:=/asked/_action/{part}"
        for part in ast.literal_eval(constant("ACTION_PARTS"))
    ]
    options = [option for rule in rules for option in ("-r", rule)]
    with Session("observer", free_domain()) as session:
        node = Node("llm", context=session.node.context, cli_args=["--ros-args", *options])
        server = ActionServer(node, Instruct, action, execute_callback=Mock())
        names = [*node.get_service_names_and_types(), *node.get_topic_names_and_types()]
        parts = {name for name, _ in names if "_action" in name}
        assert parts == {rule.partition(":=")[2] for rule in rules}
        server.destroy()
        node.destroy_node()


def test_the_policies_and_engines_to_choose_from_are_the_nodes() -> None:
    choices = ast.literal_eval(constant("CHOICES"))
    assert choices.keys() <= declared().keys()
    assert choices["policy"] == ["", *(policy.value for policy in OverrunPolicy)]
    assert choices["engine"] == ["", *ENGINES]


def test_the_node_is_the_packages_own_under_its_own_name() -> None:
    [call] = calls("LifecycleNode")
    assert keywords(call)["executable"].value in MODULES
    assert ast.literal_eval(constant("NODE_NAME")) in strings(llm_node.__file__)


@pytest.mark.parametrize("name", ["PARAM_FILE", "PRESETS"])
def test_the_files_that_it_names_come_with_the_package(name: str) -> None:
    parts = [n.value for n in ast.walk(constant(name)) if isinstance(n, ast.Constant)]
    assert (SOURCE_TREE / Path(*parts)).exists()


def test_the_xml_file_is_the_python_one_with_every_argument() -> None:
    root = ElementTree.parse(LAUNCH_FILE.with_name("llm.launch.xml")).getroot()
    assert [element.tag for element in root] == ["include"]
    [include] = root
    # What is declared or set here would hide an argument from whoever gives it.
    assert list(include) == []
    assert include.get("file") == f"$(find-pkg-share timebill_ros)/launch/{LAUNCH_FILE.name}"
