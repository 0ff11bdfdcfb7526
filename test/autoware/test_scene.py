# SPDX-License-Identifier: Apache-2.0
"""Scenes as text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from timebill_ros.autoware.scene import Ego, Obstacle
from timebill_ros.autoware.settings import DEFAULTS
from timebill_ros.budget.errors import SettingError
from timebill_ros.workload.scene import DEFAULT_LAYOUT
from timebill_ros.workload.vocabulary import MODES, domain_words

TEMPLATE = DEFAULTS.template
EGO = Ego(speed=12.4, mode="autonomous")
TRUCK = Obstacle("truck", ahead=40.9, left=0.4, speed=9.0, heading=0.02)
CAR = Obstacle("car", ahead=0.0, left=7.2, speed=11.0, heading=math.pi)
WALKER = Obstacle("pedestrian", ahead=-10.0, left=-0.1, speed=1.4, heading=-math.pi / 2)


def test_the_embedded_model_s_scene_log() -> None:
    assert TEMPLATE.write(EGO, [TRUCK, CAR, WALKER]) == (
        "ego v12 l2 autonomous ; "
        "sector s0 count n1 : o3 s0 truck d40 v9 h0 l2 ; "
        "sector s2 count n1 : o1 s2 car d7 v11 h18 l0 ; "
        "sector s4 count n1 : o2 s4 pedestrian d10 v1 h27 l2 ;"
    )


def test_its_words_are_those_of_the_workload() -> None:
    scene = TEMPLATE.write(EGO, [TRUCK, CAR, WALKER])
    assert {*scene.split(), *DEFAULTS.modes, *DEFAULTS.kinds} <= set(domain_words())
    assert set(MODES) <= set(DEFAULTS.modes)
    assert DEFAULTS.sector_objects == DEFAULT_LAYOUT.largest


def test_an_empty_road() -> None:
    assert TEMPLATE.write(EGO, []) == "ego v12 l2 autonomous ;"


def test_what_is_far_is_left_out_and_a_sector_keeps_its_nearest() -> None:
    row = [replace(TRUCK, ahead=float(10 * i)) for i in range(11, 0, -1)]
    text = replace(TEMPLATE, sector_objects=3).write(EGO, row)
    assert text.count("truck") == 3
    assert [f"d{d}" in text for d in (10, 20, 30, 40)] == [True, True, True, False]
    assert "truck" not in replace(TEMPLATE, most_distance=9.0).write(EGO, row)


def test_numbers_stay_within_the_words_that_there_are() -> None:
    wild = Obstacle("car", ahead=0.1, left=90.0, speed=300.0, heading=3.0 * math.pi)
    text = TEMPLATE.write(Ego(-2.0, "stop"), [wild, replace(wild, left=-90.0)])
    words = {word for word in text.split() if word[0] in "ovhlsdn" and word[1:].isdigit()}
    assert words <= set(domain_words())
    assert {"v2", "v59", "l0", "l5", "h18"} <= words


def test_sentences_for_other_models() -> None:
    told = replace(
        TEMPLATE,
        scene_template="{ego}\n{sectors}",
        ego_template="You go at {speed} m/s.",
        sector_template="{objects}",
        object_template="A {kind} is {ahead} m ahead, {left} m to the left.",
        separator="\n",
    )
    assert told.write(EGO, [TRUCK, CAR]) == (
        "You go at 12 m/s.\nA truck is 41 m ahead, 0 m to the left.\n"
        "A car is 0 m ahead, 7 m to the left."
    )


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("ego_template", "{velocity}", "made of speed, lane, mode, not 'velocity'"),
        ("ego_template", "{mode.__class__}", "made of speed, lane, mode"),
        ("object_template", "{kind", "a format string"),
        ("object_template", "{}", "made of index"),
        ("sector_template", "{count:frog}", "a format string"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(name: str, text: str, fault: str) -> None:
    with pytest.raises(SettingError, match=f"^{name} must be {fault}"):
        replace(TEMPLATE, **{name: text}).check()
