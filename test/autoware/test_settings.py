# SPDX-License-Identifier: Apache-2.0
"""The adapter's parameters and the files that come for them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
import yaml
from rclpy.context import Context
from rclpy.parameter import Parameter

from timebill_ros.autoware.refusal import Refusal
from timebill_ros.autoware.settings import DEFAULTS, SPECS, AdapterSettings, adapter_schema
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.parameter_schema import parameter_table, schema_text

from .fake_autoware import FakeAutoware

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config" / f"autoware_{name}.param.yaml" for name in ("adapter", "context")]
NAMES = [field.name for field in fields(AdapterSettings)]
IN_FILES = {
    name: value
    for file in FILES
    for name, value in yaml.safe_load(file.read_text())["/**"]["ros__parameters"].items()
}


def test_every_setting_is_described_and_in_a_file() -> None:
    assert list(SPECS) == NAMES
    assert sorted(IN_FILES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_hold_the_defaults(name: str) -> None:
    value, default = IN_FILES[name], getattr(DEFAULTS, name)
    if isinstance(default, tuple):  # ROS has no empty list; empty entries count for nothing
        value = tuple(entry for entry in value if entry)
    assert value == default
    assert type(value) is type(default)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_tell_the_declared_range(name: str) -> None:
    lines = "\n".join(file.read_text() for file in FILES).splitlines()
    [place] = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
    bounds = SPECS[name].range
    if bounds is not None:
        numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", lines[place - 1])]
        assert bounds.low in numbers
        assert bounds.high in numbers


def test_the_page_shows_the_declared_parameters() -> None:
    text = (ROOT / "docs/autoware.md").read_text()
    shown = text.split("<!-- parameters: begin -->\n")[1].split("\n<!-- parameters: end -->")[0]
    assert shown == parameter_table(SPECS, DEFAULTS), (
        "run: python -m timebill_ros.autoware.settings --table"
    )


def test_the_schema_s_file_is_up_to_date() -> None:
    text = (ROOT / "schema/autoware_adapter.schema.json").read_text()
    assert text == schema_text(adapter_schema()), "run: python -m timebill_ros.autoware.settings"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_files_hold_to_the_schema(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text()), adapter_schema())


@pytest.mark.parametrize("pose", [[1.0, 2.0, 3.0], "depot", [1.0, 2.0, 3.0, "north"]])
def test_a_pose_is_four_numbers(pose: object) -> None:
    content = {"/**": {"ros__parameters": {"goals": ["depot"], "pose": {"depot": pose}}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, adapter_schema())
    content["/**"]["ros__parameters"]["pose"] = {"depot": [1.0, 2.0, 3.0, 0.5]}
    jsonschema.validate(content, adapter_schema())


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"id_prefix": ""}, "id_prefix must be not empty"),
        ({"goal_frame": ""}, "goal_frame must be not empty"),
        ({"modes": ("stop",)}, "modes must be 5 words"),
        ({"kinds": ("car",) * 9}, "kinds must be 8 words"),
        ({"ego_template": "{wheels}"}, "ego_template must be made of speed, lane, mode"),
    ],
)
def test_what_no_range_can_say_is_checked(settings: dict, fault: str) -> None:
    with pytest.raises(SettingError, match=fault):
        AdapterSettings(**settings)


def test_it_is_cut_off_while_it_runs(autoware: FakeAutoware, ros_context: Context) -> None:
    adapter = autoware.adapter(ros_context)
    [done] = adapter.set_parameters([Parameter("enabled", value=False)])
    assert done.successful
    autoware.answer("drive/1", '{"command": "resume"}')
    autoware.until(lambda: autoware.count(Refusal.DISABLED) == 1)
    assert autoware.called == []


@pytest.mark.parametrize("parameter", [("id_prefix", ""), ("pose.depot", [0.0, 0.0, 0.0, 0.0])])
def test_what_was_read_at_the_start_cannot_change(
    autoware: FakeAutoware, ros_context: Context, parameter: tuple[str, object]
) -> None:
    adapter = autoware.adapter(ros_context, goals=["depot"], pose__depot=[1.0, 2.0, 0.0, 0.5])
    name, value = parameter
    [refused] = adapter.set_parameters([Parameter(name, value=value)])
    assert refused.reason == f"{name} is read when the adapter starts"


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"goals": ["depot"]}, r"pose\.depot must be x, y, z in m and yaw in rad"),
        ({"goals": ["depot"], "pose__depot": [1.0, 2.0]}, r"pose\.depot must be"),
        ({"id_prefix": ""}, "id_prefix must be not empty"),
        ({"ego_template": "{wheels}"}, "ego_template must be made of"),
    ],
)
def test_a_bad_parameter_is_named(
    autoware: FakeAutoware, ros_context: Context, parameters: dict, fault: str
) -> None:
    with pytest.raises(SettingError, match=fault):
        autoware.adapter(ros_context, **parameters)
