# SPDX-License-Identifier: Apache-2.0
"""References are checked against answers that are worked out from the prompt's text alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import Family, Task, pose, sample_family, sample_task
from timebill_ros.workload.vocabulary import (
    COMMANDS,
    FIELD_WORDS,
    GOALS,
    MANOEUVRES,
    UNCLEAR_ANSWER,
    domain_words,
)

LENGTHS = (200, 777, 2048)


def tasks(family: Family, count: int = 12) -> list[Task]:
    rng = np.random.default_rng(7)
    return [
        sample_task(rng, family, LENGTHS[i % len(LENGTHS)], held_out=i % 2 == 1)
        for i in range(count)
    ]


def records(task: Task) -> dict[str, str]:
    found = re.findall(r"(o\d+) s\d+ \w+ d\d+ v\d+ h\d+ l\d+ ;", task.system)
    return {name: re.search(rf"{name} [^;]*;", task.system).group() for name in found}


def named(task: Task) -> list[str]:
    return re.findall(r"\bo\d+", task.instruction)


def section(task: Task) -> str:
    sector = re.findall(r"\bs\d+", task.instruction)[-1]
    return re.search(rf"sector {sector} count .*?(?= sector | ego |$)", task.system).group()


@pytest.mark.parametrize("task", tasks(Family.REPORT))
def test_a_report_gives_the_records_in_the_order_asked(task: Task) -> None:
    table = records(task)
    assert task.reference == " ".join(table[name] for name in named(task))


@pytest.mark.parametrize("task", tasks(Family.LIST))
def test_a_list_gives_the_section(task: Task) -> None:
    assert task.reference == section(task)
    assert task.reference.count(";") == int(re.search(r"count n(\d+)", task.reference).group(1))


@pytest.mark.parametrize("task", tasks(Family.COUNT))
def test_a_count_gives_the_number_of_records(task: Task) -> None:
    assert task.reference == f"there are n{section(task).count(';')} ."


@pytest.mark.parametrize("task", tasks(Family.FIELD))
def test_a_field_is_that_of_the_record(task: Task) -> None:
    table = records(task)
    field = next(i for i, word in enumerate(FIELD_WORDS) if word in task.instruction.split())
    entries = (
        f"{FIELD_WORDS[field]} {name} {table[name].split()[1 + field]} ;" for name in named(task)
    )
    assert task.reference == " ".join(entries)


@pytest.mark.parametrize("task", tasks(Family.PLAN))
def test_a_plan_gives_target_and_steps(task: Task) -> None:
    manoeuvre = next(word for word in task.instruction.split() if word in MANOEUVRES)
    (target,) = named(task)
    steps = list(MANOEUVRES[manoeuvre])
    wanted = {"manoeuvre": manoeuvre, "target": target, "steps": steps}
    assert task.reference == json.dumps(wanted)


@pytest.mark.parametrize("task", tasks(Family.DRIVE, count=60))
def test_a_driving_command_does_what_was_said(task: Task) -> None:
    answer = json.loads(task.reference)
    words = task.instruction.split()
    goals = [word for word in words if word in GOALS]
    numbers = [int(word) for word in words if word.isdigit()]
    if goals:
        assert answer == {"command": "change_goal", "goal": goals[0]}
    elif numbers:
        assert answer == {"command": "velocity_limit", "velocity_mps": numbers[0]}
    elif named(task):
        speed = int(records(task)[named(task)[0]].split()[4][1:])
        assert answer == {"command": "velocity_limit", "velocity_mps": speed}
    elif "ego" in words:
        speed = int(re.search(r"ego v(\d+) ", task.system).group(1))
        assert answer == {"command": "velocity_limit", "velocity_mps": speed}
    else:
        stops = bool({"stop", "halt"} & set(words))
        assert answer == {"command": "stop" if stops else "resume"}


@pytest.mark.parametrize("task", tasks(Family.COMMAND))
def test_a_command_has_its_answer(task: Task) -> None:
    (command,) = (word for word in task.instruction.split() if word in COMMANDS)
    assert task.reference == COMMANDS[command]


@pytest.mark.parametrize("family", list(Family))
def test_a_seed_fixes_the_task(family: Family) -> None:
    assert tasks(family) == tasks(family)


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("length", [64, 200, 512, 8192])
def test_prompts_have_the_length_that_was_asked_for(family: Family, length: int) -> None:
    task = sample_task(np.random.default_rng(length), family, length)
    assert length - 28 <= task.prompt_tokens <= length
    if family is not Family.UNCLEAR:
        words = f"{task.system} {task.instruction} {task.reference}".split()
        assert set(words) <= set(domain_words())


def test_answers_span_three_to_almost_four_hundred_tokens() -> None:
    rng = np.random.default_rng(0)
    lengths = [sample_task(rng, sample_family(rng), 1024).reference_tokens for _ in range(600)]
    assert min(lengths) == 3
    assert 330 < max(lengths) <= 385


def test_a_prompt_too_short_for_a_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="one object needs"):
        sample_task(np.random.default_rng(0), Family.REPORT, 16)


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        (Family.REPORT, r"(o\d+ unknown ; ?)+"),
        (Family.FIELD, r"(\w+ o\d+ unknown ; ?)+"),
        (Family.PLAN, r'.* "target": "unknown", .*'),
        (Family.LIST, r"sector s\d+ unknown ;"),
        (Family.COUNT, r"there are unknown \."),
    ],
)
def test_what_the_scene_does_not_hold_is_unknown(family: Family, answer: str) -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 400)
    for _ in range(20):
        instruction, reference = pose(rng, family, scene, absent=1.0)
        assert re.fullmatch(answer, reference)
        assert not set(instruction.split()) & scene.spans.keys()
        assert set(reference.split()) <= set(domain_words())


def test_the_absent_share_is_kept() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 800)
    answers = [pose(rng, Family.REPORT, scene, names=40, absent=0.25)[1] for _ in range(40)]
    unknown = sum(answer.count("unknown") for answer in answers)
    assert 0.2 < unknown / 1600 < 0.3


def test_half_of_what_is_absent_was_lost() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 800)
    lost = ("o1098", "o1099", "s519")
    assert not scene.spans.keys() & set(lost)
    asked = [pose(rng, Family.REPORT, scene, 1, absent=1.0, lost=lost)[0] for _ in range(200)]
    share = sum(text.split()[-1] in lost for text in asked) / 200
    assert 0.4 < share < 0.6


def test_held_out_tasks_are_asked_in_other_words() -> None:
    rng = np.random.default_rng(0)
    wordings = []
    for held_out in (False, True):
        drawn = [sample_task(rng, Family.COUNT, 64, held_out=held_out) for _ in range(200)]
        wordings.append({re.sub(r"s\d+", "", task.instruction) for task in drawn})
    assert not wordings[0] & wordings[1]


def test_what_cannot_be_looked_up_is_not_driven_by() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, 400)
    for _ in range(60):
        instruction, answer = pose(rng, Family.DRIVE, scene, absent=1.0)
        assert (answer == UNCLEAR_ANSWER) == bool(re.search(r"\bo\d", instruction))
