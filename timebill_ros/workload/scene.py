# SPDX-License-Identifier: Apache-2.0
"""Scene logs: a vehicle and the objects around it, grouped by sector, as values and as text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from timebill_ros.workload.vocabulary import MODES, NUMBERED_WORDS, OBJECT_KINDS

EGO = "ego"
EGO_WORDS = 5
HEADER_WORDS = 5
RECORD_WORDS = 8


@dataclass(frozen=True)
class EgoWords:
    """The vehicle itself. Every attribute is the word that the log writes."""

    speed: str
    lane: str
    mode: str

    @property
    def text(self) -> str:
        """The vehicle's line of the log; ``EGO_WORDS`` words."""
        return f"{EGO} {self.speed} {self.lane} {self.mode} ;"


@dataclass(frozen=True)
class SceneObject:
    """One observed object. Every attribute is the word that the log writes."""

    name: str
    sector: str
    kind: str
    distance: str
    speed: str
    heading: str
    lane: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The six field words in record order (the order of ``FIELD_WORDS``)."""
        return (self.sector, self.kind, self.distance, self.speed, self.heading, self.lane)

    @property
    def record(self) -> str:
        """The object's line of the log: name, fields, terminator; ``RECORD_WORDS`` words."""
        return " ".join((self.name, *self.fields, ";"))


@dataclass(frozen=True)
class Section:
    """Objects of one sector, in log order, under a header that says how many there are."""

    sector: str
    count: int
    objects: tuple[SceneObject, ...]

    @property
    def header(self) -> str:
        """The line before the section's records; ``HEADER_WORDS`` words."""
        return f"sector {self.sector} count n{self.count} :"

    @property
    def text(self) -> str:
        """Header and records."""
        return " ".join((self.header, *(item.record for item in self.objects)))


@dataclass(frozen=True)
class Layout:
    """How a log is laid out.

    Attributes:
        smallest, largest: bounds of a section's number of objects.
        ego_last: the vehicle's line ends the log, instead of starting it.
        sectors_sorted: sections in the order of their sectors' numbers, instead of any.
        nearest_first: a section's objects in the order of their distance, instead of any.
    """

    smallest: int = 1
    largest: int = 4
    ego_last: bool = False
    sectors_sorted: bool = False
    nearest_first: bool = False


# What models are trained on, and other combinations that they are tested on only.
TRAINING_LAYOUTS = (
    Layout(),
    Layout(nearest_first=True),
    Layout(sectors_sorted=True),
    Layout(largest=3, ego_last=True),
    Layout(smallest=2),
)
HELD_OUT_LAYOUTS = (
    Layout(ego_last=True, sectors_sorted=True),
    Layout(smallest=3, nearest_first=True),
    Layout(largest=2, sectors_sorted=True, nearest_first=True),
)
DEFAULT_LAYOUT = TRAINING_LAYOUTS[0]


@dataclass(frozen=True)
class Scene:
    """A scene log: sections in log order; object and sector names are unique."""

    ego: EgoWords
    sections: tuple[Section, ...]
    ego_last: bool = False

    @cached_property
    def objects(self) -> tuple[SceneObject, ...]:
        """All objects in log order."""
        return tuple(item for section in self.sections for item in section.objects)

    @cached_property
    def text(self) -> str:
        """The whole log, one space between words."""
        sections = [section.text for section in self.sections]
        return " ".join([*sections, self.ego.text] if self.ego_last else [self.ego.text, *sections])

    @cached_property
    def spans(self) -> dict[str, range]:
        """Where a name's data stands in the log, as positions of words.

        An object's name maps to its record, a sector's name to its whole section, ``EGO`` to the
        vehicle's line.
        """
        spans: dict[str, range] = {}
        start = 0 if self.ego_last else EGO_WORDS
        for section in self.sections:
            record = start + HEADER_WORDS
            for item in section.objects:
                spans[item.name] = range(record, record + RECORD_WORDS)
                record += RECORD_WORDS
            spans[section.sector] = range(start, record)
            start = record
        spans[EGO] = range(start, start + EGO_WORDS) if self.ego_last else range(EGO_WORDS)
        return spans


def sample_scene(rng: np.random.Generator, words: int, layout: Layout = DEFAULT_LAYOUT) -> Scene:
    """Draw a scene whose text has at most ``words`` words, and fills them as far as it can.

    Raises ``ValueError`` when the words do not hold one object, or would need more objects or
    sectors than there are names.
    """
    least = EGO_WORDS + HEADER_WORDS + RECORD_WORDS
    if words < least:
        raise ValueError(f"words is {words}; one object needs at least {least}")
    sizes: list[int] = []
    left = words - EGO_WORDS
    while left >= HEADER_WORDS + RECORD_WORDS:
        most = min(layout.largest, (left - HEADER_WORDS) // RECORD_WORDS)
        sizes.append(min(most, int(rng.integers(layout.smallest, layout.largest + 1))))
        left -= HEADER_WORDS + RECORD_WORDS * sizes[-1]
    if sum(sizes) > NUMBERED_WORDS["o"] or len(sizes) > NUMBERED_WORDS["s"]:
        raise ValueError(f"words is {words}; a scene that long needs more names than there are")
    sectors = rng.permutation(NUMBERED_WORDS["s"])[: len(sizes)]
    if layout.sectors_sorted:
        sectors = np.sort(sectors)
    names = iter(rng.permutation(NUMBERED_WORDS["o"])[: sum(sizes)])
    sections = []
    for sector, size in zip(sectors, sizes, strict=True):
        items = [_sample_object(rng, next(names), sector) for _ in range(size)]
        if layout.nearest_first:
            items.sort(key=lambda item: int(item.distance[1:]))
        sections.append(Section(f"s{sector}", size, tuple(items)))
    mode = MODES[rng.integers(len(MODES))]
    ego = EgoWords(_number(rng, "v"), _number(rng, "l"), mode)
    return Scene(ego, tuple(sections), layout.ego_last)


def _sample_object(rng: np.random.Generator, name: int, sector: int) -> SceneObject:
    distance, speed, heading, lane = (_number(rng, prefix) for prefix in "dvhl")
    kind = OBJECT_KINDS[rng.integers(len(OBJECT_KINDS))]
    return SceneObject(f"o{name}", f"s{sector}", kind, distance, speed, heading, lane)


def _number(rng: np.random.Generator, prefix: str) -> str:
    return f"{prefix}{rng.integers(NUMBERED_WORDS[prefix])}"
