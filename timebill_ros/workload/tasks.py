# SPDX-License-Identifier: Apache-2.0
"""Task families over a scene: an instruction and its one right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timebill_ros.workload.scene import RECORD_WORDS, Scene, SceneObject, sample_scene
from timebill_ros.workload.vocabulary import (
    COMMAND_PHRASES,
    COMMANDS,
    COUNT_PHRASES,
    FIELD_PHRASES,
    FIELD_WORDS,
    LIST_PHRASES,
    MANOEUVRES,
    NUMBERED_WORDS,
    PLAN_PHRASES,
    REPORT_PHRASES,
    UNCLEAR_ANSWER,
    UNKNOWN,
)

MAX_NAMED_OBJECTS = 48
MAX_FIELD_OBJECTS = 12
# Special tokens that the chat template puts around the scene and the instruction.
TEMPLATE_TOKENS = 3


class Family(StrEnum):
    """What an instruction asks for."""

    REPORT = "report"
    """The records of 1 to 48 named objects; the long answer, up to 384 words."""
    LIST = "list"
    """The section of a sector, header first."""
    COUNT = "count"
    """The number of objects in a sector."""
    FIELD = "field"
    """One field of 1 to 12 named objects."""
    PLAN = "plan"
    """A manoeuvre around a named object: its data, then numbered steps."""
    COMMAND = "command"
    """A driving command that needs no scene; the shortest answer has 3 tokens."""
    UNCLEAR = "unclear"
    """Words that the vehicle does not know; answered by one sentence."""


@dataclass(frozen=True)
class Task:
    """One task as text; ``system`` and ``instruction`` are the two parts of the prompt."""

    family: Family
    system: str
    instruction: str
    reference: str

    @property
    def prompt_tokens(self) -> int:
        """Length N_x of the prompt in tokens of the embedded model, if it knows all words."""
        return TEMPLATE_TOKENS + len(self.system.split()) + len(self.instruction.split())

    @property
    def reference_tokens(self) -> int:
        """Length N of the reference in tokens of the embedded model, the end token included."""
        return len(self.reference.split()) + 1


DEFAULT_MIX = {
    Family.REPORT: 0.46,
    Family.LIST: 0.14,
    Family.COUNT: 0.06,
    Family.FIELD: 0.12,
    Family.PLAN: 0.10,
    Family.COMMAND: 0.09,
    Family.UNCLEAR: 0.03,
}


def sample_family(rng: np.random.Generator, mix: dict[Family, float] | None = None) -> Family:
    """Draw a family with the probabilities of ``mix`` (default ``DEFAULT_MIX``)."""
    mix = DEFAULT_MIX if mix is None else mix
    weights = np.array(list(mix.values()))
    return list(mix)[rng.choice(len(mix), p=weights / weights.sum())]


def sample_task(rng: np.random.Generator, family: Family, prompt_tokens: int) -> Task:
    """Draw a scene and a task over it whose prompt has close to ``prompt_tokens`` tokens.

    The prompt is never longer, and up to 24 tokens shorter. Raises
    ``ValueError`` when the scene cannot be that short or that long.
    """
    names = _sample_names(rng, family, most=max(1, (prompt_tokens - 32) // (RECORD_WORDS + 1)))
    # Four words hold the longest phrase before the names.
    scene = sample_scene(rng, prompt_tokens - TEMPLATE_TOKENS - 4 - names)
    instruction, reference = pose(rng, family, scene, names)
    return Task(family, scene.text, instruction, reference)


def pose(
    rng: np.random.Generator,
    family: Family,
    scene: Scene,
    names: int | None = None,
    absent: float = 0.0,
) -> tuple[str, str]:
    """Draw an instruction of a family over a given scene, with its reference answer.

    ``names`` is how many objects the instruction names, where the family names objects; drawn
    when None, and never more than the scene has. The share ``absent`` of what is named is not in
    the scene, and is answered with ``UNKNOWN``.
    """
    if names is None:
        names = _sample_names(rng, family, most=len(scene.objects))
    return _POSERS[family](rng, scene, min(names, len(scene.objects)), absent)


def _sample_names(rng: np.random.Generator, family: Family, most: int) -> int:
    """Numbers of named objects are log-uniform, so that short answers are as common as long."""
    bound = {Family.REPORT: MAX_NAMED_OBJECTS, Family.FIELD: MAX_FIELD_OBJECTS}.get(family, 1)
    return int(np.exp(rng.uniform(0.0, np.log(min(bound, most) + 1.0))))


def _pick(rng: np.random.Generator, phrases: tuple[str, ...], **words: str) -> str:
    return phrases[rng.integers(len(phrases))].format(**words)


def _choose(
    rng: np.random.Generator, scene: Scene, names: int, absent: float
) -> dict[str, SceneObject | None]:
    """Draw objects by name; None for a name that the scene does not hold."""
    chosen: dict[str, SceneObject | None] = {}
    for i in rng.permutation(len(scene.objects))[:names]:
        if rng.random() < absent:
            chosen[_absent_name(rng, scene, "o")] = None
        else:
            chosen[scene.objects[i].name] = scene.objects[i]
    return chosen


def _choose_section(rng: np.random.Generator, scene: Scene, absent: float) -> tuple[str, str, str]:
    """Draw a sector; returns its name, its section's text, and its number of objects."""
    if rng.random() < absent:
        sector = _absent_name(rng, scene, "s")
        return sector, f"sector {sector} {UNKNOWN} ;", UNKNOWN
    section = scene.sections[rng.integers(len(scene.sections))]
    return section.sector, section.text, f"n{len(section.objects)}"


def _absent_name(rng: np.random.Generator, scene: Scene, prefix: str) -> str:
    while (name := f"{prefix}{rng.integers(NUMBERED_WORDS[prefix])}") in scene.spans:
        pass
    return name


def _record(name: str, item: SceneObject | None) -> str:
    return item.record if item else f"{name} {UNKNOWN} ;"


def _report(rng: np.random.Generator, scene: Scene, names: int, absent: float) -> tuple[str, str]:
    chosen = _choose(rng, scene, names, absent)
    instruction = " ".join((_pick(rng, REPORT_PHRASES), *chosen))
    return instruction, " ".join(_record(name, item) for name, item in chosen.items())


def _list(rng: np.random.Generator, scene: Scene, _names: int, absent: float) -> tuple[str, str]:
    sector, text, _ = _choose_section(rng, scene, absent)
    return f"{_pick(rng, LIST_PHRASES)} {sector}", text


def _count(rng: np.random.Generator, scene: Scene, _names: int, absent: float) -> tuple[str, str]:
    sector, _, number = _choose_section(rng, scene, absent)
    return f"{_pick(rng, COUNT_PHRASES)} {sector}", f"there are {number} ."


def _field(rng: np.random.Generator, scene: Scene, names: int, absent: float) -> tuple[str, str]:
    field = int(rng.integers(len(FIELD_WORDS)))
    word = FIELD_WORDS[field]
    chosen = _choose(rng, scene, names, absent)
    instruction = " ".join((_pick(rng, FIELD_PHRASES, field=word), *chosen))
    values = {name: item.fields[field] if item else UNKNOWN for name, item in chosen.items()}
    return instruction, " ".join(f"{word} {name} {value} ;" for name, value in values.items())


def _plan(rng: np.random.Generator, scene: Scene, _names: int, absent: float) -> tuple[str, str]:
    manoeuvre = list(MANOEUVRES)[rng.integers(len(MANOEUVRES))]
    ((name, target),) = _choose(rng, scene, 1, absent).items()
    steps = (f"{manoeuvre} {i} {step} ;" for i, step in enumerate(MANOEUVRES[manoeuvre], start=1))
    answer = " ".join((f"plan {manoeuvre} target", _record(name, target), *steps))
    return f"{_pick(rng, PLAN_PHRASES, manoeuvre=manoeuvre)} {name}", answer


def _command(
    rng: np.random.Generator, _scene: Scene, _names: int, _absent: float
) -> tuple[str, str]:
    command = list(COMMANDS)[rng.integers(len(COMMANDS))]
    return _pick(rng, COMMAND_PHRASES, command=command), COMMANDS[command]


def _unclear(
    rng: np.random.Generator, _scene: Scene, _names: int, _absent: float
) -> tuple[str, str]:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?!,'"
    words = (
        "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(2, 8)))
        for _ in range(rng.integers(1, 5))
    )
    return " ".join(words), UNCLEAR_ANSWER


_POSERS: dict[Family, Callable[[np.random.Generator, Scene, int, float], tuple[str, str]]] = {
    Family.REPORT: _report,
    Family.LIST: _list,
    Family.COUNT: _count,
    Family.FIELD: _field,
    Family.PLAN: _plan,
    Family.COMMAND: _command,
    Family.UNCLEAR: _unclear,
}
