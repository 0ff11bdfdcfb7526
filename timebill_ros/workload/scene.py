# SPDX-License-Identifier: Apache-2.0
"""Scene logs: the objects around a vehicle, grouped by sector, as values and as text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from timebill_ros.workload.vocabulary import NUMBERED_WORDS, OBJECT_KINDS

HEADER_WORDS = 5
RECORD_WORDS = 8
MAX_SECTION_OBJECTS = 6


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
    """All objects of one sector, in log order."""

    sector: str
    objects: tuple[SceneObject, ...]

    @property
    def header(self) -> str:
        """The line before the section's records; ``HEADER_WORDS`` words."""
        return f"sector {self.sector} count n{len(self.objects)} :"

    @property
    def text(self) -> str:
        """Header and records."""
        return " ".join((self.header, *(item.record for item in self.objects)))


@dataclass(frozen=True)
class Scene:
    """A scene log: sections in log order; object and sector names are unique."""

    sections: tuple[Section, ...]

    @cached_property
    def objects(self) -> tuple[SceneObject, ...]:
        """All objects in log order."""
        return tuple(item for section in self.sections for item in section.objects)

    @cached_property
    def text(self) -> str:
        """The whole log, one space between words."""
        return " ".join(section.text for section in self.sections)

    @cached_property
    def spans(self) -> dict[str, range]:
        """Where a name's data stands in the log, as positions of words.

        An object's name maps to its record, a sector's name to its whole section.
        """
        spans: dict[str, range] = {}
        start = 0
        for section in self.sections:
            record = start + HEADER_WORDS
            for item in section.objects:
                spans[item.name] = range(record, record + RECORD_WORDS)
                record += RECORD_WORDS
            spans[section.sector] = range(start, record)
            start = record
        return spans


def sample_scene(rng: np.random.Generator, words: int) -> Scene:
    """Draw a scene whose text has at most ``words`` words, and fills them as far as it can.

    Raises ``ValueError`` when the words do not hold one object, or would need more objects or
    sectors than there are names.
    """
    if words < HEADER_WORDS + RECORD_WORDS:
        raise ValueError(
            f"words is {words}; one object needs at least {HEADER_WORDS + RECORD_WORDS}"
        )
    sizes: list[int] = []
    left = words
    while left >= HEADER_WORDS + RECORD_WORDS:
        most = min(MAX_SECTION_OBJECTS, (left - HEADER_WORDS) // RECORD_WORDS)
        sizes.append(min(most, int(rng.integers(1, MAX_SECTION_OBJECTS + 1))))
        left -= HEADER_WORDS + RECORD_WORDS * sizes[-1]
    if sum(sizes) > NUMBERED_WORDS["o"] or len(sizes) > NUMBERED_WORDS["s"]:
        raise ValueError(f"words is {words}; a scene that long needs more names than there are")
    sectors = rng.permutation(NUMBERED_WORDS["s"])[: len(sizes)]
    names = iter(rng.permutation(NUMBERED_WORDS["o"])[: sum(sizes)])
    return Scene(
        tuple(
            Section(f"s{sector}", tuple(_sample_object(rng, next(names), sector) for _ in range(n)))
            for sector, n in zip(sectors, sizes, strict=True)
        )
    )


def _sample_object(rng: np.random.Generator, name: int, sector: int) -> SceneObject:
    numbers = {p: rng.integers(NUMBERED_WORDS[p]) for p in ("d", "v", "h", "l")}
    distance, speed, heading, lane = (f"{prefix}{n}" for prefix, n in numbers.items())
    kind = OBJECT_KINDS[rng.integers(len(OBJECT_KINDS))]
    return SceneObject(f"o{name}", f"s{sector}", kind, distance, speed, heading, lane)
