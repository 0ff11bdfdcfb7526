# SPDX-License-Identifier: Apache-2.0
"""What a trained predictor is worth: calibration on one set of pairs, figures on another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from timebill_ros.budget.calibration import Calibration, fit_calibration, pit_share
from timebill_ros.budget.length import LengthDistribution, bucket_label
from timebill_ros.predictor.checkpoint import write_calibration
from timebill_ros.predictor.errors import PairsOverlap
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, iterate_pairs


class LengthErrors(NamedTuple):
    """How far predicted lengths are from the true ones, tokens but for R2."""

    mae: float
    rmse: float
    r2: float
    """Negative where the mean would predict better; not a number where all lengths are equal."""


def length_errors(predicted: ArrayLike, actual: ArrayLike) -> LengthErrors:
    """Errors of predicted lengths [n] against true ones [n], for n >= 1."""
    lengths = np.asarray(actual, dtype=np.float64)
    error = np.asarray(predicted, dtype=np.float64) - lengths
    variance = float(((lengths - lengths.mean()) ** 2).sum())
    squared = float((error**2).sum())
    return LengthErrors(
        mae=float(np.abs(error).mean()),
        rmse=math.sqrt(squared / error.size),
        r2=1.0 - squared / variance if variance else math.nan,
    )


@dataclass(frozen=True)
class LengthQuality:
    """Errors of the bucket's upper edge N_hat, tokens, but for R2 and the two shares."""

    pairs: int
    mae: float
    rmse: float
    r2: float
    bucket_accuracy: float
    covered: float
    """Share of N <= N_hat."""
    mae_of_mean: float
    """MAE of always predicting the mean length, for comparison."""
    mae_of_middle: float
    """MAE of the likeliest bucket's middle: N_hat without its built-in half bucket of excess."""

    def rounded(self) -> dict[str, float | None]:
        """All figures to four decimals; None for what is not a number, as JSON has none."""
        figures = asdict(self).items()
        return {name: None if math.isnan(value) else round(value, 4) for name, value in figures}


def length_quality(
    predicted: Sequence[LengthDistribution], actual: Sequence[int], max_tokens: int
) -> LengthQuality:
    """Compare predictions with generated lengths N, both capped by ``max_tokens``; not for none."""
    size = predicted[0].bucket_size
    edges = np.array([distribution.predicted_tokens(max_tokens) for distribution in predicted])
    lengths = np.array(actual)
    labels = np.array([bucket_label(int(n), size) for n in lengths])
    error = edges - lengths
    errors = length_errors(edges, lengths)
    return LengthQuality(
        pairs=len(lengths),
        **errors._asdict(),
        bucket_accuracy=float((-(-edges // size) == labels).mean()),
        covered=float((lengths <= edges).mean()),
        mae_of_mean=float(np.abs(lengths - lengths.mean()).mean()),
        mae_of_middle=float(np.abs(error - (size - 1) / 2).mean()),
    )


RISKS = (0.01, 0.05, 0.1, 0.2)
_TABLE_RISKS = (0.05, 0.1, 0.2, 0.5)
FOLDS = 5

Tokens = Callable[[str], Sequence[int]]
"""The target's tokens of a rendered prompt."""


@dataclass(frozen=True)
class Assessment:
    """Figures of a predictor on pairs that it has not met.

    Attributes:
        quality: errors of N_hat.
        pessimism: k.
        covered_by_pessimism: share of N <= min(k N_hat, N_max), equation (8).
        covered_by_risk: share of N <= N_W by the risk epsilon that N_W was chosen for; right is
            1 - epsilon.
        calibrated: whether that is after calibration.
    """

    quality: LengthQuality
    pessimism: float
    covered_by_pessimism: float
    covered_by_risk: Mapping[float, float]
    calibrated: bool

    def figures(self) -> dict[str, float | None]:
        """All of it by name, shares and errors to four decimals."""
        return {
            **self.quality.rounded(),
            f"covered_pessimism_{self.pessimism:g}": round(self.covered_by_pessimism, 4),
            **{f"covered_risk_{r:g}": round(c, 4) for r, c in self.covered_by_risk.items()},
        }


def predict_pairs(
    predictor: LengthPredictor, pairs: Iterable[Pair], tokens: Tokens | None = None
) -> list[LengthDistribution]:
    """The predictions; ``tokens`` is needed by predictors that read the target's tokens."""
    return [
        predictor.predict(pair.prompt, tokens(pair.prompt) if tokens else (), None)
        for pair in pairs
    ]


def calibrate(
    folder: Path, predicted: Sequence[LengthDistribution], pairs: Sequence[Pair]
) -> Calibration:
    """Calibrate a checkpoint on pairs that it was not trained on, and keep it there."""
    calibration = fit_calibration(predicted, [pair.response_tokens for pair in pairs])
    write_calibration(folder, calibration)
    return calibration


Tell = Callable[[Sequence[Pair], Sequence[Pair]], Sequence[LengthDistribution]]
"""Learns from the first pairs, and predicts the others."""


def told_by_others(pairs: Sequence[Pair], tell: Tell) -> list[LengthDistribution]:
    """What is said of every pair by what learned from the folds that it does not belong to.

    For a cross-conformal calibration: so all pairs both train and calibrate (Vovk, *Cross-conformal
    predictors*, 2015).
    """
    told: dict[str, LengthDistribution] = {}
    for fold in range(FOLDS):
        left_out = pairs[fold::FOLDS]
        others = [pair for place, pair in enumerate(pairs) if place % FOLDS != fold]
        told.update(zip((pair.digest for pair in left_out), tell(others, left_out), strict=True))
    return [told[pair.digest] for pair in pairs]


def coverage_table(
    told: Sequence[LengthDistribution],
    pairs: Sequence[Pair],
    calibration: Calibration,
    max_tokens: int,
) -> str:
    """For some risks the share of pairs within N_W, and its mean: rows of a table in Markdown."""
    actual = [pair.response_tokens for pair in pairs]
    rows = ["| risk | covered | mean N_W |", "|---|---|---|"]
    for risk in _TABLE_RISKS:
        planned = planned_by_risk(told, calibration, risk, max_tokens)
        rows.append(f"| {risk:g} | {_covered(actual, planned):.3f} | {np.mean(planned):.1f} |")
    return "\n".join(rows)


def assess(
    predicted: Sequence[LengthDistribution],
    pairs: Sequence[Pair],
    max_tokens: int,
    *,
    pessimism: float,
    calibration: Calibration | None,
) -> Assessment:
    """Compare predictions with generated lengths, at least one."""
    actual = [pair.response_tokens for pair in pairs]
    worst = [math.ceil(pessimism * each.predicted_tokens(max_tokens)) for each in predicted]
    by_risk = {risk: planned_by_risk(predicted, calibration, risk, max_tokens) for risk in RISKS}
    return Assessment(
        quality=length_quality(predicted, actual, max_tokens),
        pessimism=pessimism,
        covered_by_pessimism=_covered(actual, [min(n, max_tokens) for n in worst]),
        covered_by_risk={risk: _covered(actual, planned) for risk, planned in by_risk.items()},
        calibrated=calibration is not None,
    )


def check_unseen(
    predictor: Path, seen: frozenset[str], paths: Sequence[Path], header: PairsHeader
) -> None:
    """Check that no pair was trained or calibrated on.

    Raises:
        PairsOverlap: names the first line that was, and how many there are.
    """
    known = [
        (path, number)
        for path in paths
        for number, pair in enumerate(iterate_pairs(path, header), start=1)
        if pair.digest in seen
    ]
    if known:
        raise PairsOverlap(*known[0], predictor, len(known))


def planned_by_risk(
    predicted: Sequence[LengthDistribution],
    calibration: Calibration | None,
    risk: float,
    max_tokens: int,
) -> list[int]:
    """N_W of every prediction for a risk, as planned before anything is observed online."""
    return [
        _planned_tokens(each, number, calibration, risk, max_tokens)
        for number, each in enumerate(predicted)
    ]


def _planned_tokens(
    lengths: LengthDistribution,
    number: int,
    calibration: Calibration | None,
    risk: float,
    max_tokens: int,
) -> int:
    """N_W for a risk, as planned before anything is observed online."""
    limit = risk if calibration is None else calibration.predicted(risk)
    tokens = lengths.tokens_below(limit, pit_share(number))
    return max_tokens if tokens is None else min(tokens, max_tokens)


def _covered(actual: Sequence[int], planned: Sequence[int]) -> float:
    return sum(n <= most for n, most in zip(actual, planned, strict=True)) / len(actual)
