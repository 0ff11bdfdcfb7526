# SPDX-License-Identifier: Apache-2.0
"""Figures that can be counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.calibration import fit_calibration
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import read_calibration
from timebill_ros.predictor.errors import PairsOverlap
from timebill_ros.training.predictor.assessment import (
    RISKS,
    assess,
    calibrate,
    check_unseen,
    predict_pairs,
)
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, pair_line

# Even over 1..100, so that P(N > n) is 1 - n / 100; N_hat, the likeliest, is 1.
EVEN = LengthDistribution(np.full(100, 0.01), 1)
ONE = LengthDistribution(np.array([0.0, 1.0, 0.0]), 16)  # N_hat is 32


def pairs(lengths: Sequence[int]) -> list[Pair]:
    return [Pair(f"prompt {i}", 4, n, "EOS") for i, n in enumerate(lengths)]


def test_pessimism_is_rounded_up_and_capped_as_plans_do() -> None:
    def covered(pessimism: float, lengths: Sequence[int], max_tokens: int) -> float:
        made = [ONE] * len(lengths)
        return assess(
            made, pairs(lengths), max_tokens, pessimism=pessimism, calibration=None
        ).covered_by_pessimism

    assert covered(1.0, [31, 32, 33, 64], 400) == 0.5
    assert covered(1.01, [32, 33, 34, 64], 400) == 0.5  # ceil(32.32) is 33
    assert covered(5.0, [100, 101], 100) == 0.5


def test_a_right_predictor_covers_one_minus_the_risk() -> None:
    lengths = list(range(1, 101))
    found = assess([EVEN] * 100, pairs(lengths), 400, pessimism=5.0, calibration=None)
    assert not found.calibrated
    assert list(found.covered_by_risk) == list(RISKS)
    for risk, covered in found.covered_by_risk.items():
        assert covered == pytest.approx(1.0 - risk, abs=0.011)


def test_calibration_mends_a_predictor_that_expects_too_little() -> None:
    rng = np.random.default_rng(0)
    surprising = rng.integers(50, 101, 4000).tolist()
    made = [EVEN] * 4000
    calibration = fit_calibration(made, surprising)
    raw, mended = (
        assess(made, pairs(surprising), 400, pessimism=5.0, calibration=c).covered_by_risk
        for c in (None, calibration)
    )
    for risk in RISKS:
        assert raw[risk] < 1.0 - 1.5 * risk
        assert mended[risk] == pytest.approx(1.0 - risk, abs=0.012)


def test_figures_have_a_name_each_and_no_nan() -> None:
    found = assess([ONE] * 3, pairs([1, 48, 49]), 400, pessimism=1.5, calibration=None)
    figures = found.figures()
    assert figures["covered_pessimism_1.5"] == 0.6667
    assert figures["covered_risk_0.2"] == 0.3333
    assert figures["pairs"] == 3
    assert {f"covered_risk_{r}" for r in ("0.01", "0.05", "0.1", "0.2")} <= figures.keys()
    equal = assess([ONE], pairs([32]), 400, pessimism=1.0, calibration=None)
    assert math.isnan(equal.quality.r2)
    assert equal.figures()["r2"] is None


class Listening:
    """A predictor that keeps what it is asked."""

    bucket_size = 16

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...], int | None]] = []

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        self.asked.append((text, tuple(prompt_ids), max_input))
        return ONE


def test_predicting_shows_the_whole_prompt_and_its_tokens_where_they_are_known() -> None:
    predictor = Listening()
    assert predict_pairs(predictor, pairs([1, 2])) == [ONE, ONE]
    predict_pairs(predictor, pairs([1]), lambda prompt: [len(prompt)])
    assert predictor.asked == [
        ("prompt 0", (), None),
        ("prompt 1", (), None),
        ("prompt 0", (8,), None),
    ]


def test_a_calibration_is_kept_with_the_checkpoint(embedded: Path) -> None:
    made = calibrate(embedded, [EVEN] * 100, pairs(range(1, 101)))
    kept = read_calibration(embedded)
    assert kept is not None
    assert kept.pairs == made.pairs == 100
    np.testing.assert_allclose(kept.scores, made.scores, rtol=1e-5)


def test_pairs_that_were_seen_are_named_with_the_first_line_and_their_number(
    tmp_path: Path,
) -> None:
    header = PairsHeader("some/model", "0123456789abcdef", 100, {})
    known = pairs([1, 2, 3, 4])
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    paths[0].write_text("".join(map(pair_line, known[:2])))
    paths[1].write_text("".join(map(pair_line, known[2:])))
    folder = tmp_path / "predictor"
    check_unseen(folder, frozenset({"another"}), paths, header)
    seen = frozenset({known[1].digest, known[3].digest})
    with pytest.raises(PairsOverlap, match=r"1\.jsonl, line 2: .*predictor .*and 1 others"):
        check_unseen(folder, seen, paths, header)
    with pytest.raises(PairsOverlap, match=r"2\.jsonl, line 2"):
        check_unseen(folder, frozenset({known[3].digest}), paths, header)
