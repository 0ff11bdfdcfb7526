# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.workload.scene import (
    EGO,
    HEADER_WORDS,
    HELD_OUT_LAYOUTS,
    RECORD_WORDS,
    TRAINING_LAYOUTS,
    Layout,
    sample_scene,
)
from timebill_ros.workload.vocabulary import domain_words


@pytest.mark.parametrize("words", [18, 19, 200, 1000, 8180])
def test_a_scene_fills_its_words(words: int) -> None:
    scene = sample_scene(np.random.default_rng(1), words)
    used = len(scene.text.split())
    assert words - HEADER_WORDS - RECORD_WORDS < used <= words


@pytest.mark.parametrize("small", [False, True])
def test_names_are_unique_and_words_are_known(small: bool) -> None:
    # The layout of the smallest sections has the most sectors, that of the largest most objects.
    layout = Layout(largest=2) if small else Layout(smallest=4)
    scene = sample_scene(np.random.default_rng(2), 8180, layout)
    names = [item.name for item in scene.objects]
    assert len(set(names)) == len(names)
    assert len({section.sector for section in scene.sections}) == len(scene.sections)
    assert set(scene.text.split()) <= set(domain_words())


@pytest.mark.parametrize("layout", [*TRAINING_LAYOUTS, *HELD_OUT_LAYOUTS])
def test_spans_point_at_records_sections_and_the_vehicle(layout: Layout) -> None:
    scene = sample_scene(np.random.default_rng(3), 500, layout)
    words = scene.text.split()
    assert text_at(words, scene.spans[EGO]) == scene.ego.text
    for section in scene.sections:
        assert text_at(words, scene.spans[section.sector]) == section.text
        for item in section.objects:
            assert text_at(words, scene.spans[item.name]) == item.record


def text_at(words: list[str], span: range) -> str:
    return " ".join(words[span.start : span.stop])


@pytest.mark.parametrize("layout", [*TRAINING_LAYOUTS, *HELD_OUT_LAYOUTS])
def test_a_scene_has_its_layout(layout: Layout) -> None:
    scene = sample_scene(np.random.default_rng(4), 1500, layout)
    sizes = [len(section.objects) for section in scene.sections]
    assert [section.count for section in scene.sections] == sizes
    assert set(sizes[:-1]) == set(range(layout.smallest, layout.largest + 1))
    assert scene.text.startswith(EGO) != layout.ego_last
    sectors = [int(section.sector[1:]) for section in scene.sections]
    assert (sectors == sorted(sectors)) == layout.sectors_sorted
    distances = [[int(o.distance[1:]) for o in section.objects] for section in scene.sections]
    in_order = all(values == sorted(values) for values in distances)
    assert in_order == layout.nearest_first


def test_no_layout_is_trained_and_tested() -> None:
    assert not set(TRAINING_LAYOUTS) & set(HELD_OUT_LAYOUTS)


@pytest.mark.parametrize("words", [0, 17, 40_000])
def test_a_scene_that_cannot_be_names_the_words(words: int) -> None:
    with pytest.raises(ValueError, match=f"words is {words}"):
        sample_scene(np.random.default_rng(0), words)
