# SPDX-License-Identifier: Apache-2.0
"""Tasks of several families: a scene, an instruction over it, and its one right answer.

``python -m timebill_ros.workload.tasks`` prints one of each, as docs/workload.md shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timebill_ros.workload import questions
from timebill_ros.workload.phrases import LONGEST_PHRASE
from timebill_ros.workload.scene import (
    HELD_OUT_LAYOUTS,
    RECORD_WORDS,
    TRAINING_LAYOUTS,
    Scene,
    sample_scene,
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
    """The steps of a manoeuvre around a named object, as JSON."""
    DRIVE = "drive"
    """A command that a vehicle can execute, as JSON; some take a speed from the scene."""
    COMMAND = "command"
    """What a driver does in a situation, which needs no scene; 3 to 19 tokens."""
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
    Family.REPORT: 0.43,
    Family.LIST: 0.07,
    Family.COUNT: 0.07,
    Family.FIELD: 0.12,
    Family.PLAN: 0.10,
    Family.DRIVE: 0.10,
    Family.COMMAND: 0.08,
    Family.UNCLEAR: 0.03,
}

_TEMPLATES: dict[Family, questions.Template] = {
    Family.REPORT: questions.report,
    Family.LIST: questions.list_section,
    Family.COUNT: questions.count,
    Family.FIELD: questions.field,
    Family.PLAN: questions.plan,
    Family.DRIVE: questions.drive,
    Family.COMMAND: questions.command,
    Family.UNCLEAR: questions.unclear,
}


def sample_family(rng: np.random.Generator, mix: dict[Family, float] | None = None) -> Family:
    """Draw a family with the probabilities of ``mix`` (default ``DEFAULT_MIX``)."""
    mix = DEFAULT_MIX if mix is None else mix
    weights = np.array(list(mix.values()))
    return list(mix)[rng.choice(len(mix), p=weights / weights.sum())]


def sample_task(
    rng: np.random.Generator, family: Family, prompt_tokens: int, *, held_out: bool = False
) -> Task:
    """Draw a scene and a task over it whose prompt has close to ``prompt_tokens`` tokens.

    ``held_out`` draws wording and layout from the sets that no model was trained on. The prompt is
    never longer than asked, and up to 28 tokens shorter. Raises ``ValueError`` when the scene
    cannot be that short or that long.
    """
    names = _sample_names(rng, family, most=max(1, (prompt_tokens - 32) // (RECORD_WORDS + 1)))
    layouts = HELD_OUT_LAYOUTS if held_out else TRAINING_LAYOUTS
    layout = layouts[rng.integers(len(layouts))]
    scene = sample_scene(rng, prompt_tokens - TEMPLATE_TOKENS - LONGEST_PHRASE - names, layout)
    instruction, reference = pose(rng, family, scene, names, held_out=held_out)
    return Task(family, scene.text, instruction, reference)


def pose(
    rng: np.random.Generator,
    family: Family,
    scene: Scene,
    names: int | None = None,
    absent: float = 0.0,
    held_out: bool = False,
    lost: Sequence[str] = (),
) -> tuple[str, str]:
    """Draw an instruction of a family over a given scene, with its reference answer.

    ``names`` is how many objects the instruction names, where the family names objects; drawn
    when None, and never more than the scene has. The share ``absent`` of what is named is not in
    the scene, half of it one of the names ``lost``, where there are any. ``held_out`` draws the
    wording from the set that no model was trained on.
    """
    if names is None:
        names = _sample_names(rng, family, most=len(scene.objects))
    draw = questions.Draw(rng, scene, min(names, len(scene.objects)), absent, held_out, lost)
    return _TEMPLATES[family](draw)


def _sample_names(rng: np.random.Generator, family: Family, most: int) -> int:
    """Numbers of named objects are log-uniform, so that short answers are as common as long."""
    bound = {Family.REPORT: MAX_NAMED_OBJECTS, Family.FIELD: MAX_FIELD_OBJECTS}.get(family, 1)
    return int(np.exp(rng.uniform(0.0, np.log(min(bound, most) + 1.0))))


# Of the examples that the page shows.
_SEED = 3
_SCENE_WORDS = 90
_NAMED_OBJECTS = 2


def examples() -> str:
    """A scene, then an instruction and its answer for every family, in Markdown."""
    rng = np.random.default_rng(_SEED)
    scene = sample_scene(rng, _SCENE_WORDS)
    lines = ["The scene:", "", f"    {scene.ego.text}"]
    lines += [f"    {section.text}" for section in scene.sections]
    for family in Family:
        instruction, answer = pose(rng, family, scene, _NAMED_OBJECTS)
        lines += ["", f"**{family}**", "", f"    {instruction}", f"    -> {answer}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(examples(), end="")
