# SPDX-License-Identifier: Apache-2.0
"""The price of each lever, from the answers to many cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.budget.quality import QualityCurve, QualityPoint


def eviction_curve(cases: Sequence[AnsweredCase], alphas: Sequence[float]) -> QualityCurve:
    """Q(alpha) with the whole prompt prefilled; of ratios that the window allowed."""
    points = []
    for alpha in sorted(alphas):
        answers = [
            case.after(1.0, math.floor((1.0 - alpha) * case.whole.prompt_tokens + 1e-6))
            for case in cases
        ]
        points.append(_point(alpha, answers))
    return QualityCurve(tuple(points))


def selection_curve(cases: Sequence[AnsweredCase], shares: Sequence[float]) -> QualityCurve:
    """Q(rho) without eviction, over 1 - rho."""
    points = []
    for share in sorted(shares, reverse=True):
        answers = [max(case.of_share(share), key=_kept) for case in cases]
        points.append(_point(round(1.0 - share, 6), answers))
    return QualityCurve(tuple(points))


def table(curve: QualityCurve, lever: str) -> Iterator[str]:
    """Markdown, a line for each point."""
    yield f"| {lever} drops | score | ran to the cap |"
    yield "|---|---|---|"
    for point in curve.points:
        yield (
            f"| {point.dropped:g} | {point.score:.1f} ± {point.standard_error:.1f} "
            f"| {point.ran_to_cap:.1%} |"
        )


def _point(dropped: float, answers: Sequence[Answer]) -> QualityPoint:
    scores = np.array([answer.score for answer in answers])
    error = scores.std(ddof=1) / math.sqrt(scores.size) if scores.size > 1 else 0.0
    ran = np.mean([not answer.ended for answer in answers])
    return QualityPoint(
        dropped,
        score=round(float(scores.mean()), 3),
        standard_error=round(float(error), 3),
        ran_to_cap=round(float(ran), 4),
    )


def _kept(answer: Answer) -> int:
    return answer.kept_tokens
