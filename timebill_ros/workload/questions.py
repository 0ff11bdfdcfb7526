# SPDX-License-Identifier: Apache-2.0
"""Question templates: how each family puts a question to a scene, and what the right answer is.

A template returns an instruction and its reference answer. What the scene does not hold is answered
``UNKNOWN``; a driving command about it is not understood, so that nothing is driven by a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from timebill_ros.workload import phrases
from timebill_ros.workload.phrases import Phrases
from timebill_ros.workload.scene import Scene, SceneObject
from timebill_ros.workload.vocabulary import (
    COMMANDS,
    FIELD_WORDS,
    GOALS,
    MANOEUVRES,
    NUMBERED_WORDS,
    RESUME,
    STOP,
    UNCLEAR_ANSWER,
    UNKNOWN,
    change_goal,
    manoeuvre_plan,
    velocity_limit,
)


@dataclass(frozen=True)
class Draw:
    """Draws at random what fills a template: objects, sectors, words.

    Attributes:
        names: how many objects an instruction names, where it names any.
        absent: share of the names that the scene does not hold.
        held_out: whether words come from the set that no model was trained on.
        lost: names that the scene once held; half of the absent ones are of these.
    """

    rng: np.random.Generator
    scene: Scene
    names: int
    absent: float
    held_out: bool
    lost: Sequence[str] = ()

    def pick(self, choices: tuple[str, ...]) -> str:
        """Draw one of several."""
        return choices[self.rng.integers(len(choices))]

    def word(self, wording: Phrases, about: str = "") -> str:
        """Draw an instruction about something."""
        return wording.draw(self.rng, self.held_out, about)

    def objects(self) -> dict[str, SceneObject | None]:
        """Draw objects by name; None for a name that the scene does not hold."""
        chosen: dict[str, SceneObject | None] = {}
        for i in self.rng.permutation(len(self.scene.objects))[: self.names]:
            item = self.scene.objects[i]
            if self.rng.random() < self.absent:
                chosen[self._absent_name("o")] = None
            else:
                chosen[item.name] = item
        return chosen

    def object(self) -> tuple[str, SceneObject | None]:
        """Draw one object, its name first."""
        return next(iter(self.objects().items()))

    def section(self) -> tuple[str, str, str]:
        """Draw a sector; returns its name, its section's text, and its number of objects."""
        if self.rng.random() < self.absent:
            sector = self._absent_name("s")
            return sector, f"sector {sector} {UNKNOWN} ;", UNKNOWN
        section = self.scene.sections[self.rng.integers(len(self.scene.sections))]
        return section.sector, section.text, f"n{section.count}"

    def _absent_name(self, prefix: str) -> str:
        lost = [name for name in self.lost if name.startswith(prefix)]
        if lost and self.rng.random() < 0.5:
            return lost[self.rng.integers(len(lost))]
        while (name := f"{prefix}{self.rng.integers(NUMBERED_WORDS[prefix])}") in self.scene.spans:
            pass
        return name


Template = Callable[[Draw], tuple[str, str]]


def report(draw: Draw) -> tuple[str, str]:
    """The records of named objects, in the order asked."""
    chosen = draw.objects()
    records = (item.record if item else f"{name} {UNKNOWN} ;" for name, item in chosen.items())
    return draw.word(phrases.REPORT, " ".join(chosen)), " ".join(records)


def list_section(draw: Draw) -> tuple[str, str]:
    """The section of a sector as the log has it."""
    sector, text, _ = draw.section()
    return draw.word(phrases.LIST, sector), text


def count(draw: Draw) -> tuple[str, str]:
    """How many objects a sector has."""
    sector, _, number = draw.section()
    return draw.word(phrases.COUNT, sector), f"there are {number} ."


def field(draw: Draw) -> tuple[str, str]:
    """One field of named objects, in the order asked."""
    place = int(draw.rng.integers(len(FIELD_WORDS)))
    word = FIELD_WORDS[place]
    chosen = draw.objects()
    values = {name: item.fields[place] if item else UNKNOWN for name, item in chosen.items()}
    answer = " ".join(f"{word} {name} {value} ;" for name, value in values.items())
    return " ".join((draw.word(phrases.FIELD, word), *chosen)), answer


def plan(draw: Draw) -> tuple[str, str]:
    """The steps of a manoeuvre around an object, as JSON."""
    manoeuvre = draw.pick(tuple(MANOEUVRES))
    name, target = draw.object()
    answer = manoeuvre_plan(manoeuvre, name if target else UNKNOWN)
    return f"{draw.word(phrases.PLAN, manoeuvre)} {name}", answer


def drive(draw: Draw) -> tuple[str, str]:
    """A command that the vehicle executes, as JSON."""
    return _DRIVERS[draw.rng.choice(len(_DRIVERS), p=_DRIVER_SHARES)](draw)


def command(draw: Draw) -> tuple[str, str]:
    """What a driver does in a situation."""
    name = draw.pick(tuple(COMMANDS))
    return draw.word(phrases.COMMAND, name), COMMANDS[name]


def unclear(draw: Draw) -> tuple[str, str]:
    """Words that mean nothing."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?!,'"
    rng = draw.rng
    words = (
        "".join(letters[i] for i in rng.integers(len(letters), size=rng.integers(2, 8)))
        for _ in range(rng.integers(1, 5))
    )
    return " ".join(words), UNCLEAR_ANSWER


def _limit(draw: Draw) -> tuple[str, str]:
    speed = int(draw.rng.integers(NUMBERED_WORDS["v"]))
    return draw.word(phrases.LIMIT, str(speed)), velocity_limit(speed)


def _behind(draw: Draw) -> tuple[str, str]:
    name, ahead = draw.object()
    answer = velocity_limit(int(ahead.speed[1:])) if ahead else UNCLEAR_ANSWER
    return draw.word(phrases.BEHIND, name), answer


def _hold(draw: Draw) -> tuple[str, str]:
    return draw.word(phrases.HOLDING), velocity_limit(int(draw.scene.ego.speed[1:]))


def _stop(draw: Draw) -> tuple[str, str]:
    return draw.word(phrases.STOPPING), STOP


def _resume(draw: Draw) -> tuple[str, str]:
    return draw.word(phrases.RESUMING), RESUME


def _head_for(draw: Draw) -> tuple[str, str]:
    goal = draw.pick(GOALS)
    return draw.word(phrases.HEADING, goal), change_goal(goal)


_DRIVERS: tuple[Template, ...] = (_limit, _behind, _hold, _stop, _resume, _head_for)
_DRIVER_SHARES = (0.2, 0.3, 0.1, 0.12, 0.12, 0.16)
