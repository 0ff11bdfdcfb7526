# SPDX-License-Identifier: Apache-2.0
"""Requests whose levers have a price, and what a choice of them is worth, by counting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import Situation, kept_tokens
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.risk import LengthRisk, Observation, observed_coverage
from timebill_ros.budget.time_model import TimeModel

from .situations import situation

FALLING = QualityCurve(
    tuple(
        QualityPoint(dropped, score, 1.0, ran)
        for dropped, score, ran in (
            *((0.0, 90.0, 0.0), (0.5, 80.0, 0.0)),
            *((0.9, 60.0, 0.1), (1.0, 20.0, 0.5)),
        )
    )
)
STEP = QualityCurve((QualityPoint(0.0, 90.0, 1.0, 0.0), QualityPoint(1e-9, 70.0, 1.0, 0.0)))
QUALITY = LeverQuality(FALLING, FALLING, measured=True)


def risk_of(probabilities: object, bucket_size: int = 16) -> LengthRisk:
    lengths = LengthDistribution(np.asarray(probabilities, dtype=float), bucket_size)
    return LengthRisk(lengths, 0.5, None, observed_coverage([]))


def known(
    remaining: float,
    *,
    prompt_tokens: int = 4000,
    max_tokens: int = 400,
    risk: LengthRisk | None = None,
    quality: LeverQuality = QUALITY,
) -> Situation:
    given = situation(
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        remaining=remaining,
        length_risk=risk,
    )
    return replace(given, quality=quality)


def short_answers(left: float, n_x: int, weights: list[float]) -> Situation:
    """Of at most 40 tokens, in buckets that are as likely as ``weights`` say."""
    risk = risk_of(np.array(weights) / sum(weights))
    return known(left, prompt_tokens=n_x, max_tokens=40, risk=risk)


def expected_score(
    s: Situation, model: TimeModel, rho: float, alpha: float, left: float, n_x: int
) -> float:
    """By counting: token after token until the time is over."""
    kept = kept_tokens(alpha, replace(s, prompt_tokens=n_x))
    if kept < n_x:
        left -= model.evict(n_x)
    if left < -1e-9:
        return 0.0
    tokens = 1
    while tokens < s.max_tokens and model.decode(kept, tokens + 1) <= left + 1e-9:
        tokens += 1
    evicted = 1.0 - kept / n_x
    assert s.quality is not None
    in_time = 1.0
    if tokens < s.max_tokens:
        assert s.length_risk is not None
        lengths = s.length_risk.lengths
        shorter = 0.0
        for bucket, probability in enumerate(lengths.probabilities):
            part = (tokens - bucket * lengths.bucket_size) / lengths.bucket_size
            shorter += probability * min(1.0, max(0.0, part))
        in_time = shorter * (1.0 - float(s.quality.runs_on(rho, evicted)))
    return float(s.quality.score(rho, evicted)) * in_time


def calibrated(risk: LengthRisk) -> LengthRisk:
    """After so many responses that probabilities down to 1 in 200 are known to be right."""
    seen = [Observation((i + 1) / 200.0, complete=True) for i in range(199)]
    return replace(risk, coverage=observed_coverage(seen))
