# SPDX-License-Identifier: Apache-2.0
"""Answers that no model gave, with scores and lengths that are easy to follow."""

from __future__ import annotations

import numpy as np

from timebill_ros.bench.answers import Answer, AnsweredCase
from timebill_ros.bench.cases import Case
from timebill_ros.bench.grounds import Ground
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.quality import LeverQuality, QualityCurve, QualityPoint
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.settings import Settings

# 1,000 prompt tokens take 10 ms, a step 1 ms and 1 us per 10 cached tokens.
MODEL = TimeModel(a=0.0, b=1e-5, c=0.0, p=1e-7, q=1e-3)
CURVE = QualityCurve((QualityPoint(0.0, 100.0, 1.0, 0.0), QualityPoint(1.0, 40.0, 1.0, 0.0)))
QUALITY = LeverQuality(CURVE, CURVE, measured=True)
SHARES = (1.0, 0.5, 0.25)
SELECTION = "lexical"
TEXT = "one. two. three. four. five. six. seven. eight. nine. ten."


def answer(share: float, prompt_tokens: int, kept_tokens: int, n: int, score: float) -> Answer:
    selection = SELECTION if share < 1.0 else ""
    return Answer(selection, share, prompt_tokens, kept_tokens, n, True, score, TEXT)


def case(name: str, prompt_tokens: int, response_tokens: int) -> AnsweredCase:
    """An answer loses 10 points by each halving of the prompt and by eviction of half of it."""
    answers = []
    for loss, share in enumerate(SHARES):
        n_x = round(share * prompt_tokens)
        for more, kept in ((0, n_x), (1, n_x // 2)):
            score = 100.0 - 10.0 * (loss + more)
            answers.append(answer(share, n_x, kept, response_tokens, score))
    return AnsweredCase(name, {SELECTION: 0.0}, tuple(answers))


def likely(response_tokens: int) -> LengthDistribution:
    """All of it in the bucket that the length is in."""
    bucket = np.zeros(25)
    bucket[-(-response_tokens // 16) - 1] = 1.0
    return LengthDistribution(bucket, 16)


CASES = [case("short", 1000, 10), case("long", 8000, 20), case("longer", 16000, 30)]


def ground() -> Ground:
    settings = Settings(max_tokens=400, window=16)
    lengths = {case.case: likely(case.whole.response_tokens) for case in CASES}
    asked = {case.case: Case(case.case, "", "count", (TEXT,), "f1") for case in CASES}
    return Ground(settings, MODEL, QUALITY, None, CASES, lengths, asked=asked)
