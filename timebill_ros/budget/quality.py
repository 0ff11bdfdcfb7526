# SPDX-License-Identifier: Apache-2.0
"""Q(alpha): how good answers are after an eviction, as measured on the loaded model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from timebill_ros.budget.errors import QualityFileError

# Where a checkpoint's folder holds its curves.
QUALITY_FILE = "quality.json"


@dataclass(frozen=True)
class QualityPoint:
    """What was measured at one eviction ratio.

    Attributes:
        alpha: the eviction ratio, 0 to 1.
        score: mean score of the answers, 0 to 100.
        standard_error: of that mean.
        ran_to_cap: share of the answers that did not end by themselves.
    """

    alpha: float
    score: float
    standard_error: float
    ran_to_cap: float


@dataclass(frozen=True)
class QualityCurve:
    """The measured points of one eviction method, in the order of their ratios.

    Raises:
        ValueError: no points, or ratios that do not grow within 0 to 1, or figures out of range.
    """

    points: tuple[QualityPoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a quality curve needs a point")
        alphas = [point.alpha for point in self.points]
        if any(second <= first for first, second in pairwise(alphas)):
            raise ValueError(f"alpha must grow from point to point, not {alphas}")
        for point in self.points:
            for name, most in (
                ("alpha", 1.0),
                ("score", 100.0),
                ("standard_error", 100.0),
                ("ran_to_cap", 1.0),
            ):
                value = getattr(point, name)
                if not 0.0 <= value <= most:
                    raise ValueError(f"{name} must be within 0 to {most:g}, not {value!r}")

    def score(self, alpha: float) -> float:
        """Q(alpha), 0 to 100: linear between the points, level beyond them."""
        alphas = [point.alpha for point in self.points]
        return float(np.interp(alpha, alphas, [point.score for point in self.points]))


def write_quality(path: Path, curves: Mapping[str, QualityCurve]) -> None:
    """Write the curves of some eviction methods, by the methods' names, as JSON."""
    written = {name: [asdict(point) for point in curve.points] for name, curve in curves.items()}
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def read_quality(path: Path) -> dict[str, QualityCurve]:
    """Read what ``write_quality`` wrote.

    Raises:
        QualityFileError: the file cannot be read, or does not hold curves.
    """
    curves: dict[str, QualityCurve] = {}
    try:
        methods = json.loads(path.read_text(encoding="utf-8"))
        for name, points in methods.items():
            curves[name] = QualityCurve(tuple(QualityPoint(**point) for point in points))
    except OSError as error:
        raise QualityFileError(path, error.strerror or str(error)) from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise QualityFileError(path, str(error)) from error
    return curves
