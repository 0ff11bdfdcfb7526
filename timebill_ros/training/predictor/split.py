# SPDX-License-Identifier: Apache-2.0
"""Which pairs train a predictor, which calibrate it, and which are kept from it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timebill_ros.budget.errors import SettingError
from timebill_ros.predictor.errors import EmptySet
from timebill_ros.training.predictor.pairs import Pair

_PROMPTS = "prompts.csv"
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Split:
    """Three parts of a set of pairs, without overlap."""

    train: tuple[Pair, ...]
    calibration: tuple[Pair, ...]
    held_out: tuple[Pair, ...]

    def parts(self) -> Iterator[tuple[str, tuple[Pair, ...]]]:
        """Every part with its name."""
        yield "train", self.train
        yield "calibration", self.calibration
        yield HELD_OUT, self.held_out


def split_pairs(
    pairs: Sequence[Pair], seed: int, *, calibration: float = 0.1, held_out: float = 0.1
) -> Split:
    """Draw the parts, of which two have the given shares, at least one pair each.

    The same pairs are split the same way in whatever order they come.

    Raises:
        SettingError: the shares leave nothing to train on.
        EmptySet: there are fewer than three pairs.
    """
    for name, share in (("calibration", calibration), ("held_out", held_out)):
        if not 0.0 < share < 1.0:
            raise SettingError(name, share, "above 0 and below 1")
    if calibration + held_out >= 1.0:
        raise SettingError("held_out", held_out, f"below what calibration {calibration:g} leaves")
    if len(pairs) < 3:
        raise EmptySet(f"a set of {len(pairs)}", "pairs for all of train, calibration and held_out")
    ordered = sorted(pairs, key=lambda pair: pair.digest)
    order = np.random.default_rng(seed).permutation(len(ordered))
    shuffled = [ordered[index] for index in order]
    first = max(1, round(calibration * len(pairs)))
    second = first + max(1, round(held_out * len(pairs)))
    second = min(second, len(pairs) - 1)
    return Split(
        train=tuple(shuffled[second:]),
        calibration=tuple(shuffled[:first]),
        held_out=tuple(shuffled[first:second]),
    )


def write_prompts(folder: Path, split: Split) -> None:
    """Keep with a predictor which prompts it has met, as digests."""
    with (folder / _PROMPTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt_digest", "part"))
        writer.writerows((pair.digest, name) for name, part in split.parts() for pair in part)


def seen_prompts(folder: Path) -> frozenset[str] | None:
    """Digests of the prompts that a predictor was trained or calibrated on; None if not kept."""
    try:
        with (folder / _PROMPTS).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    return frozenset(row["prompt_digest"] for row in rows if row["part"] != HELD_OUT)
