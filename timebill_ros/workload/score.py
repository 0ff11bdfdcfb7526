# SPDX-License-Identifier: Apache-2.0
"""The score of an answer by LongBench's metric for its family (arXiv 2308.14508).

Apart from ``metrics``, because it needs packages that a node does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer

from timebill_ros.workload.metrics import token_f1
from timebill_ros.workload.tasks import Family

Metric = Callable[[str, str], float]


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, LongBench's metric for summaries."""
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


def edit_similarity(answer: str, reference: str) -> float:
    """1 less the share of characters to insert or delete, LongBench's metric for code."""
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


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"])
