# SPDX-License-Identifier: Apache-2.0
"""What is around the vehicle, and the text that tells a language model of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from timebill_ros.budget.errors import SettingError


@dataclass(frozen=True)
class Ego:
    """The vehicle itself: its speed, m/s, and its operation mode in one word."""

    speed: float
    mode: str


@dataclass(frozen=True)
class Obstacle:
    """An object as the vehicle sees it.

    Attributes:
        kind: what it is, in one word.
        ahead, left: where it is, m from the vehicle along its axes.
        speed: m/s.
        heading: where it goes, rad counter-clockwise from where the vehicle goes.
    """

    kind: str
    ahead: float
    left: float
    speed: float
    heading: float

    @property
    def distance(self) -> float:
        """Distance from the vehicle, m."""
        return math.hypot(self.ahead, self.left)


@dataclass(frozen=True)
class SceneTemplate:
    """How a scene is written.

    Each text is a format string of Python's with whole numbers and words:

    Attributes:
        scene_template: {ego} and {sectors}.
        ego_template: {speed} in m/s, {lane}, {mode}.
        sector_template: {sector} (0 is ahead, counter-clockwise), {count}, {objects}.
        object_template: {index} from 1, nearest first, {sector}, {kind}, {distance} in m, {speed}
            in m/s, {heading} in tens of degrees counter-clockwise from the vehicle's, {lane},
            {ahead} and {left} in m.
        separator: between objects and between sectors.
        sectors: how many the surroundings are divided into.
        sector_objects: most objects of a sector, the nearest ones.
        most_distance: objects that are farther are left out, m.
        most_speed: greater speeds are written as this one, m/s.
        lane_width, ego_lane: lanes are counted from the vehicle's, this many metres each.
        lanes: number of lanes that there are words for; lanes beyond are written as the outermost.
    """

    scene_template: str
    ego_template: str
    sector_template: str
    object_template: str
    separator: str
    sectors: int
    sector_objects: int
    most_distance: float
    most_speed: float
    lane_width: float
    ego_lane: int
    lanes: int

    def check(self) -> None:
        """Try every text on made-up values.

        Raises:
            SettingError: a text asks for a value that there is not, or is no format string.
        """
        self.write(Ego(0.0, "unknown"), [Obstacle("car", 1.0, 0.0, 0.0, 0.0)])

    def write(self, ego: Ego, obstacles: Iterable[Obstacle]) -> str:
        """The text of a scene."""
        seen = [o for o in obstacles if o.distance <= self.most_distance]
        seen.sort(key=lambda obstacle: obstacle.distance)
        grouped: dict[int, list[str]] = {}
        for index, obstacle in enumerate(seen, start=1):
            group = grouped.setdefault(self._sector(obstacle), [])
            if len(group) < self.sector_objects:
                group.append(self._object(index, obstacle))
        sectors = [
            self._fill(
                "sector_template",
                sector=sector,
                count=len(objects),
                objects=self.separator.join(objects),
            )
            for sector, objects in sorted(grouped.items())
        ]
        told = self._fill(
            "ego_template", speed=self._speed(ego.speed), lane=self.ego_lane, mode=ego.mode
        )
        return self._fill("scene_template", ego=told, sectors=self.separator.join(sectors)).strip()

    def _object(self, index: int, obstacle: Obstacle) -> str:
        return self._fill(
            "object_template",
            index=index,
            sector=self._sector(obstacle),
            kind=obstacle.kind,
            distance=math.floor(obstacle.distance),
            speed=self._speed(obstacle.speed),
            heading=round(math.degrees(obstacle.heading) / 10.0) % 36,
            lane=self._lane(obstacle),
            ahead=round(obstacle.ahead),
            left=round(obstacle.left),
        )

    def _sector(self, obstacle: Obstacle) -> int:
        turn = math.atan2(obstacle.left, obstacle.ahead) / (2.0 * math.pi)
        return round(turn * self.sectors) % self.sectors

    def _lane(self, obstacle: Obstacle) -> int:
        lane = self.ego_lane - round(obstacle.left / self.lane_width)
        return min(max(lane, 0), self.lanes - 1)

    def _speed(self, speed: float) -> int:
        return round(min(abs(speed), self.most_speed))

    def _fill(self, name: str, **values: object) -> str:
        return _fill(name, getattr(self, name), values)


def _fill(name: str, text: str, values: Mapping[str, Any]) -> str:
    """The text with its values; names only, so that a template reaches nothing behind them."""
    try:
        fields = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
        filled = text.format(**values) if fields <= values.keys() else ""
    except (ValueError, KeyError, IndexError) as fault:
        raise SettingError(name, text, f"a format string ({fault})") from None
    if unknown := fields - values.keys():
        raise SettingError(name, unknown.pop(), f"made of {', '.join(values)}")
    return filled
