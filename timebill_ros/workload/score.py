# SPDX-License-Identifier: Apache-2.0
"""How good an answer is: the metrics, and LongBench's for each family (arXiv 2308.14508).

Two metrics need packages that a node does not. They load them when they are first called, so that
the demo, which only compares words, runs without them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from timebill_ros.workload.tasks import Family

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

Metric = Callable[[str, str], float]
"""From 0 to 1 for an answer and its reference."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(answer: str, reference: str) -> float:
    """1 when the words are the same in the same order, else 0."""
    return float(answer.split() == reference.split())


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, LongBench's metric for question answering.

    Case, punctuation and articles do not count, nor does word order. 1 when both are empty.
    """
    given, wanted = Counter(_normalised(answer)), Counter(_normalised(reference))
    if not given or not wanted:
        return float(given == wanted)
    shared = (given & wanted).total()
    return 2.0 * shared / (given.total() + wanted.total())


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, LongBench's metric for summaries."""
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


def edit_similarity(answer: str, reference: str) -> float:
    """1 less the share of characters to insert or delete, LongBench's metric for code."""
    from rapidfuzz import fuzz

    return fuzz.ratio(answer, reference) / 100.0


# Order matters in a report, a list and the steps of a command; JSON is code.
METRICS: Mapping[Family, Metric] = {
    Family.REPORT: rouge_l,
    Family.LIST: rouge_l,
    Family.COUNT: token_f1,
    Family.FIELD: token_f1,
    Family.PLAN: edit_similarity,
    Family.DRIVE: edit_similarity,
    Family.COMMAND: rouge_l,
    Family.UNCLEAR: token_f1,
}


def score(family: Family, answer: str, reference: str) -> float:
    """0 to 100, by the family's metric."""
    return 100.0 * METRICS[family](answer, reference)


def _normalised(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
