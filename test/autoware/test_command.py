# SPDX-License-Identifier: Apache-2.0
"""Which texts are commands."""

from __future__ import annotations

import json

import jsonschema
import pytest

from timebill_ros.autoware.command import (
    ChangeGoal,
    Command,
    NotACommand,
    Resume,
    Stop,
    VelocityLimit,
    Vocabulary,
)

VOCABULARY = Vocabulary(["depot", "pier 7"])


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"command": "velocity_limit", "velocity_mps": 12}', VelocityLimit(12.0)),
        ('{"command":"velocity_limit","velocity_mps":0}', VelocityLimit(0.0)),
        ('{"command": "stop"}', Stop()),
        (' {"command": "resume"}\n', Resume()),
        ('{"command": "change_goal", "goal": "pier 7"}', ChangeGoal("pier 7")),
    ],
)
def test_a_command_is_read(text: str, command: Command) -> None:
    assert VOCABULARY.read(text) == command


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON"),
        ("stop", "not JSON"),
        ('{"command": "stop"', "not JSON"),
        ('{"command": "stop"} {"command": "resume"}', "not JSON: Extra data"),
        ('{"command": "stop", "command": "resume"}', "a key occurs twice"),
        ('{"command": "velocity_limit", "velocity_mps": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "not JSON"),
        ('"stop"', "not a driving command"),
        ("null", "not a driving command"),
        ('{"command": "explode"}', "not a driving command"),
        ('{"command": "stop", "now": true}', "not a driving command"),
        ('{"command": "velocity_limit"}', "not a driving command"),
        ('{"command": "velocity_limit", "velocity_mps": -1}', "not a driving command"),
        ('{"command": "velocity_limit", "velocity_mps": 1e9}', "not a driving command"),
        ('{"command": "velocity_limit", "velocity_mps": "12"}', "not a driving command"),
        ('{"command": "velocity_limit", "velocity_mps": true}', "not a driving command"),
        ('{"command": "change_goal", "goal": "harbour"}', "not a driving command"),
    ],
)
def test_anything_else_is_none(text: str, fault: str) -> None:
    with pytest.raises(NotACommand, match=fault):
        VOCABULARY.read(text)


def test_a_vehicle_without_goals_is_sent_nowhere() -> None:
    vocabulary = Vocabulary([])
    assert "change_goal" not in vocabulary.schema
    with pytest.raises(NotACommand):
        vocabulary.read('{"command": "change_goal", "goal": "depot"}')
    assert vocabulary.read('{"command": "stop"}') == Stop()


def test_the_schema_is_one_with_the_vehicle_s_own_goals() -> None:
    schema = json.loads(VOCABULARY.schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    [goals] = [
        f["properties"]["goal"]["enum"] for f in schema["oneOf"] if "goal" in f["properties"]
    ]
    assert goals == ["depot", "pier 7"]
