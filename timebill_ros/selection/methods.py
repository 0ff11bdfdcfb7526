# SPDX-License-Identifier: Apache-2.0
"""The selection methods: each says which passages of a prompt matter to its instruction."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.errors import SettingError


class SelectionMethod(Protocol):
    """Says which passages of a prompt matter to its instruction."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """Score every passage, shape [len(passages)]; the higher the better.

        Passages of equal scores are kept from the end, which is what a text without an instruction
        is usually about.
        """


@dataclass(frozen=True)
class Recent(SelectionMethod):
    """The end of the prompt: does not look at the instruction, as a floor under the others."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """All the same, so that the last ones stay."""
        return np.zeros(len(passages))


@dataclass(frozen=True)
class RandomPassages(SelectionMethod):
    """Any passages, the same ones for the same number of them."""

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """Drawn from a fixed seed."""
        return np.random.default_rng(0).random(len(passages))


UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Han characters, as a range of a regular expression: no white space between words."""

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


@dataclass(frozen=True)
class Lexical(SelectionMethod):
    """BM25 of each passage for the instruction's words (Robertson, Zaragoza 2009).

    The score of a passage is the sum over the instruction's words of idf f (k1 + 1) / (f + k1 (1 -
    b + b l / l_mean)), where f is how often the passage has the word and l its number of words. A
    library would index every word of a prompt that is asked one question: bm25s takes 15 us per
    passage, this 2 us.

    A Han or kana character counts as a word.

    Attributes:
        k1: from where on more of the same word counts no more.
        b: how much longer passages are held to be longer for nothing, 0 to 1.
    """

    k1: float = 1.5
    b: float = 0.75

    def scores(self, passages: Sequence[str], instruction: str) -> NDArray[np.float64]:
        """BM25 of every passage, [len(passages)]; 0 where no word is shared."""
        asked = set(_WORD.findall(instruction.lower()))
        found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        words = np.ones(len(passages))
        for index, passage in enumerate(passages):
            own = _WORD.findall(passage.lower())
            words[index] = max(1, len(own))
            for word in own:
                if word in asked:
                    found[word][index] += 1
        scores = np.zeros(len(passages))
        if not found:
            return scores
        saturation = self.k1 * (1.0 - self.b + self.b * words / words.mean())
        for counts in found.values():
            having = len(counts)
            rarity = math.log(1.0 + (len(passages) - having + 0.5) / (having + 0.5))
            places = np.fromiter(counts.keys(), dtype=np.intp, count=having)
            times = np.fromiter(counts.values(), dtype=np.float64, count=having)
            scores[places] += rarity * times * (self.k1 + 1.0) / (times + saturation[places])
        return scores


SELECTION_METHODS: Mapping[str, Callable[[], SelectionMethod]] = {
    "lexical": Lexical,
    "recent": Recent,
    "random": RandomPassages,
}


def make_selection_method(name: str) -> SelectionMethod:
    """The method of that name.

    Raises:
        SettingError: no such method.
    """
    if name not in SELECTION_METHODS:
        raise SettingError("selection", name, f"one of {', '.join(SELECTION_METHODS)}")
    return SELECTION_METHODS[name]()
