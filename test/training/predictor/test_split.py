# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.predictor.errors import EmptySet
from timebill_ros.training.predictor.pairs import Pair, seen_prompts, split_pairs, write_prompts

PAIRS = [Pair(f"prompt {n}", 3, n + 1, "EOS") for n in range(50)]


def test_every_pair_is_in_one_part() -> None:
    split = split_pairs(PAIRS, seed=0, calibration=0.2, held_out=0.1)
    assert [len(part) for _, part in split.parts()] == [35, 10, 5]
    assert sorted(pair.prompt for _, part in split.parts() for pair in part) == sorted(
        pair.prompt for pair in PAIRS
    )


def test_the_split_follows_the_seed_and_not_the_order() -> None:
    assert split_pairs(PAIRS, seed=3) == split_pairs(PAIRS[::-1], seed=3)
    assert split_pairs(PAIRS, seed=3) != split_pairs(PAIRS, seed=4)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_small_set_has_something_of_each(count: int) -> None:
    assert all(part for _, part in split_pairs(PAIRS[:count], seed=0, held_out=0.7).parts())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_set_that_is_too_small_is_named(count: int) -> None:
    with pytest.raises(EmptySet, match=f"a set of {count}"):
        split_pairs(PAIRS[:count], seed=0)


@pytest.mark.parametrize(
    ("calibration", "held_out", "name"),
    [(0.0, 0.1, "calibration"), (0.1, -0.1, "held_out"), (0.6, 0.5, "held_out")],
)
def test_shares_that_leave_nothing_are_named(
    calibration: float, held_out: float, name: str
) -> None:
    with pytest.raises(SettingError, match=name):
        split_pairs(PAIRS, seed=0, calibration=calibration, held_out=held_out)


def test_a_predictor_remembers_what_it_met(tmp_path: Path) -> None:
    assert seen_prompts(tmp_path) is None
    split = split_pairs(PAIRS, seed=0)
    write_prompts(tmp_path, split)
    seen = seen_prompts(tmp_path)
    assert seen == {pair.digest for pair in (*split.train, *split.calibration)}
    assert "prompt 1" not in (tmp_path / "prompts.csv").read_text()
