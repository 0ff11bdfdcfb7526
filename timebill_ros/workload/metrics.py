# SPDX-License-Identifier: Apache-2.0
"""How good an answer is, from 0 to 1."""

from __future__ import annotations

from collections import Counter


def exact_match(answer: str, reference: str) -> float:
    """1 when the words are the same in the same order, else 0."""
    return float(answer.split() == reference.split())


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of words, LongBench's metric for question answering.

    1 when both are empty. Word order does not count.
    """
    given, wanted = Counter(answer.split()), Counter(reference.split())
    if not given or not wanted:
        return float(given == wanted)
    shared = (given & wanted).total()
    return 2.0 * shared / (given.total() + wanted.total())
