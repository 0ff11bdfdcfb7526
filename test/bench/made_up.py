# SPDX-License-Identifier: Apache-2.0
"""Answers that no model gave, with scores and lengths that are easy to follow."""

from __future__ import annotations

import numpy as np

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.outcomes import Ground
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.settings import Settings

# 1,000 prompt tokens take 10 ms, a step 1 ms and 1 us per 10 cached tokens.
MODEL = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-7, q=1e-3)
CURVE = QualityCurve((QualityPoint(0.0, 100.0, 1.0, 0.0), QualityPoint(1.0, 40.0, 1.0, 0.0)))
QUALITY = LeverQuality(CURVE, CURVE, measured=True)
SHARES = (1.0, 0.5, 0.25)


def answer(share: float, prompt_tokens: int, kept_tokens: int, n: int, score: float) -> Answer:
    return Answer(share, prompt_tokens, kept_tokens, n, True, score, 0.01, 0.0, 0.02, "text")


def case(name: str, prompt_tokens: int, response_tokens: int) -> AnsweredCase:
    """An answer loses 10 points by each halving of the prompt and by eviction of half of it."""
    answers = []
    for loss, share in enumerate(SHARES):
        n_x = round(share * prompt_tokens)
        for more, kept in ((0, n_x), (1, n_x // 2)):
            score = 100.0 - 10.0 * (loss + more)
            answers.append(answer(share, n_x, kept, response_tokens, score))
    bucket = np.zeros(25)
    bucket[-(-response_tokens // 16) - 1] = 1.0
    return AnsweredCase(name, 0.0, tuple(bucket), 16, tuple(answers))


CASES = [case("short", 1000, 10), case("long", 8000, 20), case("longer", 16000, 30)]


def ground() -> Ground:
    return Ground(Settings(max_tokens=400, window=16), MODEL, QUALITY, None, CASES)
