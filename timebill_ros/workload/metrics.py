# SPDX-License-Identifier: Apache-2.0
"""How good an answer is, from 0 to 1, by what Python itself brings."""

from __future__ import annotations

import re
import string
from collections import Counter

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


def _normalised(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
