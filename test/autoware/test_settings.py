# SPDX-License-Identifier: Apache-2.0
"""The adapter's parameters and the files that come for them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
import yaml

from timebill_ros.autoware.schema import adapter_schema
from timebill_ros.autoware.settings import DEFAULTS, SPECS, AdapterSettings
from timebill_ros.budget.errors import SettingError
from timebill_ros.node.parameter_schema import schema_text
from timebill_ros.node.parameter_table import parameter_table

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
        "run: python -m timebill_ros.autoware.settings"
    )


def test_the_schema_s_file_is_up_to_date() -> None:
    text = (ROOT / "schema/autoware_adapter.schema.json").read_text()
    assert text == schema_text(adapter_schema()), "run: python -m timebill_ros.autoware.schema"


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
