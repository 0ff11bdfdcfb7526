# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.training.embedded import collect_lengths
from timebill_ros.training.embedded.collect_lengths import SETS, PairSet, collect
from timebill_ros.training.embedded.generation import CHECKPOINT
from timebill_ros.training.embedded.lengths import read_pairs


def test_a_set_is_collected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_lengths, "LONGEST_PROMPT", 200)
    collect(tmp_path / "new", "train", CHECKPOINT, threads=1, count=2)
    pairs = read_pairs(PairSet.path(tmp_path / "new", "train"))
    assert len(pairs) == 2
    collect(tmp_path / "new", "train", tmp_path / "no checkpoint", threads=1, count=3)
    assert read_pairs(PairSet.path(tmp_path / "new", "train")) == pairs


def test_no_two_sets_share_a_seed() -> None:
    assert len({pair_set.seed for pair_set in SETS.values()}) == len(SETS)
