# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.workload import phrases
from timebill_ros.workload.phrases import Phrases, all_phrases

KINDS = {name: value for name, value in vars(phrases).items() if isinstance(value, Phrases)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_there_are_many_ways_to_ask_and_none_is_trained_and_tested(kind: Phrases) -> None:
    assert len({*kind.training, *kind.held_out}) == len(kind.training) + len(kind.held_out)
    assert len(kind.training) >= 8
    assert len(kind.held_out) >= 3


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_held_out_are_combinations_not_words(kind: Phrases) -> None:
    trained = {word for other in KINDS.values() for text in other.training for word in text.split()}
    assert {word for text in kind.held_out for word in text.split()} <= trained


@pytest.mark.parametrize("held_out", [False, True])
def test_draws_come_from_the_set_that_was_asked_for(held_out: bool) -> None:
    rng = np.random.default_rng(0)
    templates = phrases.LIST.held_out if held_out else phrases.LIST.training
    drawn = {phrases.LIST.draw(rng, held_out, "s7") for _ in range(200)}
    assert drawn == {template.format("s7") for template in templates}


def test_all_phrases_are_listed() -> None:
    listed = set(all_phrases())
    for kind in KINDS.values():
        assert {template.format("") for template in (*kind.training, *kind.held_out)} <= listed
