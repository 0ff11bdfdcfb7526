# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.workload.scene import HEADER_WORDS, RECORD_WORDS, sample_scene
from timebill_ros.workload.vocabulary import domain_words


@pytest.mark.parametrize("words", [13, 14, 200, 1000, 8189])
def test_a_scene_fills_its_words(words: int) -> None:
    scene = sample_scene(np.random.default_rng(1), words)
    used = len(scene.text.split())
    assert words - HEADER_WORDS - RECORD_WORDS < used <= words


def test_names_are_unique_and_words_are_known() -> None:
    scene = sample_scene(np.random.default_rng(2), 8000)
    names = [item.name for item in scene.objects]
    assert len(set(names)) == len(names)
    assert len({section.sector for section in scene.sections}) == len(scene.sections)
    assert set(scene.text.split()) <= set(domain_words())


def test_spans_point_at_records_and_sections() -> None:
    scene = sample_scene(np.random.default_rng(3), 500)
    words = scene.text.split()
    for section in scene.sections:
        span = scene.spans[section.sector]
        assert words[span.start : span.stop] == section.text.split()
        for item in section.objects:
            span = scene.spans[item.name]
            assert words[span.start : span.stop] == item.record.split()


@pytest.mark.parametrize("words", [0, 12, 40_000])
def test_a_scene_that_cannot_be_names_the_words(words: int) -> None:
    with pytest.raises(ValueError, match=f"words is {words}"):
        sample_scene(np.random.default_rng(0), words)
