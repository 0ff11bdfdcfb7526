# SPDX-License-Identifier: Apache-2.0
"""The installed package as ROS sees it: messages, shared files, executables."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from pathlib import Path

import pytest
from ament_index_python import get_package_prefix, get_package_share_directory, get_resource
from builtin_interfaces.msg import Duration, Time
from catkin_pkg.package import parse_package
from rclpy.serialization import deserialize_message, serialize_message

import timebill_ros
from timebill_ros.__main__ import MODULES
from timebill_ros.action import Instruct
from timebill_ros.msg import (
    ChatMessage,
    Eviction,
    Instruction,
    Overrun,
    Partial,
    Plan,
    Response,
    Timing,
)

SOURCE_TREE = Path(__file__).resolve().parents[1]
DURATION = "builtin_interfaces/Duration"

FIELDS = {
    Instruction: {
        "header": "std_msgs/Header",
        "id": "string",
        "system": "string",
        "prompt": "string",
        "budget": DURATION,
        "deadline": "builtin_interfaces/Time",
        "max_tokens": "uint32",
        "messages": "sequence<timebill_ros/ChatMessage>",
        "response_schema": "string",
        "stop": "sequence<string, 16>",
        "seed": "sequence<uint32, 1>",
        "temperature": "sequence<float, 1>",
        "top_p": "sequence<float, 1>",
        "fallback_text": "string",
    },
    ChatMessage: {"role": "string", "content": "string"},
    Eviction: {"at_token": "uint32", "kept_tokens": "uint32"},
    Plan: {
        "planner": "string",
        "alpha": "double",
        "feasible": "boolean",
        "prompt_tokens": "uint32",
        "reused_tokens": "uint32",
        "kept_tokens": "uint32",
        "evictions": "sequence<timebill_ros/Eviction>",
        "predicted_tokens": "uint32",
        "planned_tokens": "uint32",
        "time_margin": "double",
        "rho": "double",
        "model": "string",
        "score": "double",
        "expected_score": "double",
        "risk": "double",
        "predicted_prefill": DURATION,
        "predicted_time": DURATION,
        "wcet": DURATION,
    },
    Timing: dict.fromkeys(
        ("queued", "predict", "prefill", "evict", "decode", "total", "slack"), DURATION
    ),
    Response: {
        "header": "std_msgs/Header",
        "id": "string",
        "text": "string",
        "finish_reason": "uint8",
        "late": "boolean",
        "truncated": "boolean",
        "response_tokens": "uint32",
        "plan": "timebill_ros/Plan",
        "timing": "timebill_ros/Timing",
        "engine": "string",
    },
    Overrun: {
        "header": "std_msgs/Header",
        "id": "string",
        "reason": "uint8",
        "stage": "uint8",
        "detail": "string",
        "partial_text": "string",
        "response_tokens": "uint32",
        "plan": "timebill_ros/Plan",
        "timing": "timebill_ros/Timing",
        "engine": "string",
    },
    Partial: {
        "header": "std_msgs/Header",
        "id": "string",
        "text": "string",
        "response_tokens": "uint32",
        "alpha": "double",
        "slack": DURATION,
    },
}
ACTION = {
    Instruct.Goal: {"instruction": "timebill_ros/Instruction"},
    Instruct.Result: {
        "error_code": "uint8",
        "error_msg": "string",
        "response": "timebill_ros/Response",
        "overrun": "timebill_ros/Overrun",
    },
    Instruct.Feedback: {
        "text": "string",
        "response_tokens": "uint32",
        "alpha": "double",
        "slack": DURATION,
    },
}
ENUMS = [
    (Response, ["EOS", "LENGTH", "STOP", "DEADLINE"]),
    (Overrun, ["KILLED", "LATE", "SKIPPED", "EXPIRED", "REJECTED", "CANCELED", "FAILED"]),
    (Overrun, ["QUEUED", "PREFILL", "DECODE"]),
]
MESSAGES = [message.__name__ for message in FIELDS]


def prefix() -> Path:
    return Path(get_package_prefix("timebill_ros"))


def share() -> Path:
    return Path(get_package_share_directory("timebill_ros"))


@pytest.mark.parametrize("message", FIELDS, ids=MESSAGES)
def test_messages_have_the_documented_fields(message: type) -> None:
    assert message.get_fields_and_field_types() == FIELDS[message]


def test_the_action_has_the_documented_fields() -> None:
    assert {part: part.get_fields_and_field_types() for part in ACTION} == ACTION


def test_the_action_s_error_codes_are_the_reasons_of_an_overrun() -> None:
    assert Instruct.Result.NONE == Instruct.Result().error_code == 0
    for name in ENUMS[1][1]:
        assert getattr(Instruct.Result, name) == getattr(Overrun, name)


@pytest.mark.parametrize(("message", "names"), ENUMS)
def test_enums_count_from_one_so_that_zero_is_unset(message: type, names: list[str]) -> None:
    assert [getattr(message, name) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((f"msg/{message.__name__}.msg", len(fields)) for message, fields in FIELDS.items()),
        ("action/Instruct.action", sum(map(len, ACTION.values()))),
    ],
)
def test_every_field_is_commented(path: str, fields: int) -> None:
    lines = (SOURCE_TREE / path).read_text().splitlines()
    declarations = [line for line in lines if line and not line.startswith(("#", "---"))]
    assert len(declarations) >= fields
    assert not [line for line in declarations if not line.partition("#")[2].strip()]


def test_messages_survive_serialization() -> None:
    overrun = Overrun(id="a", reason=Overrun.KILLED, stage=Overrun.DECODE, partial_text="Größe")
    overrun.header.stamp = Time(sec=12, nanosec=34)
    overrun.plan = Plan(planner="timebill", alpha=0.25, feasible=True, prompt_tokens=4000)
    overrun.timing = Timing(slack=Duration(sec=-1, nanosec=999_999_999))
    assert deserialize_message(serialize_message(overrun), Overrun) == overrun


@pytest.mark.parametrize(
    "typesupport",
    [
        f"rosidl_{kind}_{language}"
        for kind in ("typesupport", "typesupport_fastrtps", "typesupport_introspection")
        for language in ("c", "cpp")
    ],
)
def test_type_supports_of_both_languages_load(typesupport: str) -> None:
    """rosbag2 and C++ nodes load them by name from lib/."""
    ctypes.CDLL(str(prefix() / "lib" / f"libtimebill_ros__{typesupport}.so"))


def test_the_ament_index_lists_the_package_and_its_messages() -> None:
    get_resource("packages", "timebill_ros")
    interfaces, _ = get_resource("rosidl_interfaces", "timebill_ros")
    listed = {f"msg/{name}.msg" for name in MESSAGES} | {"action/Instruct.action"}
    assert listed <= set(interfaces.split())


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("msg", "*.msg"),
        ("action", "*.action"),
        ("srv", "*.srv"),
        ("config", "*.yaml"),
        ("config/foxglove", "*.json"),
        ("config/security", "*.xml"),
        ("config/presets", "*.yaml"),
        ("examples", "*.py"),
        ("launch", "*.launch.*"),
        ("schema", "*.json"),
    ],
)
def test_shared_files_are_installed(folder: str, pattern: str) -> None:
    sources = sorted((SOURCE_TREE / folder).glob(pattern))
    assert sources
    for path in sources:
        assert (share() / folder / path.name).read_text() == path.read_text()


def test_every_source_and_checkpoint_file_is_installed() -> None:
    source = SOURCE_TREE / "timebill_ros"
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    generated = {
        path
        for path in files
        if path.parts[0] in ("msg", "action", "srv") or path.suffix in (".so", ".pyc")
    }
    installed = Path(timebill_ros.__file__).parent
    assert not {str(path) for path in files - generated if not (installed / path).is_file()}


def test_the_manifest_is_valid_and_names_the_installed_version() -> None:
    manifest = parse_package(SOURCE_TREE / "package.xml")
    assert manifest.name == "timebill_ros"
    assert manifest.version == importlib.metadata.version("timebill_ros")
    assert manifest.get_build_type() == "ament_python"
    assert "rosidl_interface_packages" in {group.name for group in manifest.member_of_groups}
    assert (share() / "package.xml").read_text() == (SOURCE_TREE / "package.xml").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_executables_are_where_ros2_run_looks(name: str) -> None:
    assert importlib.util.find_spec(MODULES[name])
    assert os.access(prefix() / "lib" / "timebill_ros" / name, os.X_OK)


def test_the_extra_brings_what_training_needs() -> None:
    lines = (SOURCE_TREE / "requirements" / "train.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith(("#", "-"))]
    found = importlib.metadata.requires("timebill_ros") or []
    assert wanted
    assert {text.partition(";")[0].strip() for text in found if 'extra == "train"' in text} == {
        *wanted
    }
