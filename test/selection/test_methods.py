# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.selection.methods import SELECTION_METHODS, Lexical, make_selection_method

PASSAGES = ["the car waits", "the bus goes", "the car and the car", "nothing"]


def test_bm25_by_its_formula() -> None:
    scores = Lexical(k1=1.5, b=0.75).scores(PASSAGES, "Where is the CAR?")
    lengths = np.array([3.0, 3.0, 5.0, 1.0])
    norm = 1.5 * (0.25 + 0.75 * lengths / lengths.mean())
    the = math.log(1 + (4 - 3 + 0.5) / (3 + 0.5))
    car = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    times = {"the": [1, 1, 2, 0], "car": [1, 0, 2, 0]}
    expected = sum(
        rarity * np.array(times[word]) * 2.5 / (np.array(times[word]) + norm)
        for word, rarity in (("the", the), ("car", car))
    )
    np.testing.assert_allclose(scores, expected)


def test_no_shared_word_no_score() -> None:
    assert not Lexical().scores(PASSAGES, "?").any()


@pytest.mark.parametrize("name", SELECTION_METHODS)
def test_every_method_scores_every_passage(name: str) -> None:
    scores = make_selection_method(name).scores(PASSAGES, "the car")
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    assert make_selection_method(name).scores([], "the car").shape == (0,)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(SettingError, match="selection must be one of lexical"):
        make_selection_method("best")


def test_words_without_white_space_are_found_by_their_characters() -> None:
    passages = ["机器人把蓝色箱子放到三号架。", "然后它停在门口。", "今天天气很好。"]
    scores = Lexical().scores(passages, "蓝箱在何处")
    assert scores.argmax() == 0
    assert scores[1] > 0.0 == scores[2]  # one shares a word
