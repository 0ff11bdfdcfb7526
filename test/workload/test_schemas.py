# SPDX-License-Identifier: Apache-2.0
"""The shipped JSON schemas describe exactly what the workload answers."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, pose, sample_task
from timebill_ros.workload.vocabulary import GOALS, MANOEUVRES, NUMBERED_WORDS, UNCLEAR_ANSWER

SCHEMAS = {Family.DRIVE: "driving_command", Family.PLAN: "plan"}


def schema(family: Family) -> dict:
    folder = files("timebill_ros.workload") / "schemas"
    return json.loads((folder / f"{SCHEMAS[family]}.schema.json").read_text())


@pytest.mark.parametrize("family", SCHEMAS)
def test_every_answer_fits_its_schema(family: Family) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(family))
    rng = np.random.default_rng(3)
    for held_out in (False, True):
        for _ in range(60):
            answer = sample_task(rng, family, 300, held_out=held_out).reference
            jsonschema.validate(json.loads(answer), schema(family))


def test_what_is_not_in_the_scene_is_planned_for_but_not_driven_by() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 400)
    _, plan = pose(rng, Family.PLAN, scene, absent=1.0)
    assert json.loads(plan)["target"] == "unknown"
    jsonschema.validate(json.loads(plan), schema(Family.PLAN))
    answers = {pose(rng, Family.DRIVE, scene, absent=1.0)[1] for _ in range(80)}
    assert UNCLEAR_ANSWER in answers


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": "fly"},
        {"command": "velocity_limit"},
        {"command": "velocity_limit", "velocity_mps": -1},
        {"command": "velocity_limit", "velocity_mps": 60},
        {"command": "velocity_limit", "velocity_mps": 1.5},
        {"command": "change_goal", "goal": "moon"},
        {"command": "stop", "goal": "depot"},
        {},
    ],
)
def test_no_other_command_fits(wrong: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema(Family.DRIVE))


def test_the_schemas_know_the_vocabulary() -> None:
    limit, *_, goal = schema(Family.DRIVE)["oneOf"]
    assert limit["properties"]["velocity_mps"]["maximum"] == NUMBERED_WORDS["v"] - 1
    assert tuple(goal["properties"]["goal"]["enum"]) == GOALS
    plan = schema(Family.PLAN)["properties"]
    assert plan["manoeuvre"]["enum"] == list(MANOEUVRES)
    assert plan["steps"]["maxItems"] == max(len(steps) for steps in MANOEUVRES.values())
