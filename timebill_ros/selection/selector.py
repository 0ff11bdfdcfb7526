# SPDX-License-Identifier: Apache-2.0
"""Cuts a prompt into passages, and keeps those that matter to its instruction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from timebill_ros.selection.methods import UNSPACED, SelectionMethod

# A passage ends with a sentence, a record or a line; the white space behind it belongs to it.
# Chinese and Japanese ends stand without any.
_END = re.compile(r"(?:[.!?;]+[\"')\]]*\s+|[。！？；]+[」』”’）]*\s*|\n\s*)")  # noqa: RUF001
# Where words are not told apart by white space, a character counts for one; and whatever is that
# long is no word.
_WORD = re.compile(rf"[{UNSPACED}]\s*|[^\s{UNSPACED}]{{1,64}}\s*")
# What is shorter joins the next one, for a heading says nothing without its text.
_FEWEST_WORDS = 5
# A text without ends is cut after so many words.
_MOST_WORDS = 64


def split(text: str) -> list[str]:
    """The passages of ``text`` in order; joined they are the text, character by character."""
    passages: list[str] = []
    started = ""
    for piece in _pieces(text):
        started += piece
        if len(_WORD.findall(started)) >= _FEWEST_WORDS:
            passages.append(started)
            started = ""
    if not started:
        return passages
    if passages:
        passages[-1] += started
        return passages
    return [started]


def _pieces(text: str) -> list[str]:
    """The text after each end, and after so many words where there is none."""
    starts = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    pieces = []
    for start, end in pairwise(starts):
        words = list(_WORD.finditer(text, start, end))
        if len(words) <= _MOST_WORDS:
            pieces.append(text[start:end])
            continue
        cuts = [start, *(word.start() for word in words[_MOST_WORDS::_MOST_WORDS]), end]
        pieces += [text[a:b] for a, b in pairwise(cuts)]
    return [piece for piece in pieces if piece]


@dataclass(frozen=True, eq=False)
class RankedTexts:
    """The passages of a prompt's texts, in the order in which they are to be kept.

    Attributes:
        passages: in the order of reading; joined by text they are the texts.
        text_of: shape [passages], which text each passage belongs to.
        order: shape [passages], indices of passages: those that always stay, then the best.
        always: how many of them always stay.
        texts: number of texts.
    """

    passages: Sequence[str]
    text_of: NDArray[np.intp]
    order: NDArray[np.intp]
    always: int
    texts: int

    @property
    def least_share(self) -> float:
        """The share of the characters that stays whatever is asked for; 1 if nothing can go."""
        if self.always == len(self.passages):
            return 1.0
        reached = self._reached()
        return float(reached[self.always - 1] / reached[-1]) if self.always else 0.0

    def select(self, share: float) -> tuple[str, ...]:
        """The texts with at most the share ``share`` of their characters, passages in their order.

        More where what always stays is more.
        """
        reached = self._reached()
        most = share * reached[-1:] + 1e-9  # empty without passages
        fitting = int(np.searchsorted(reached, most, side="right").sum())
        kept = np.sort(self.order[: max(fitting, self.always)])
        texts = [""] * self.texts
        for index in kept:
            texts[self.text_of[index]] += self.passages[index]
        return tuple(texts)

    def _reached(self) -> NDArray[np.int64]:
        lengths = np.array([len(passage) for passage in self.passages])
        return np.cumsum(lengths[self.order])


@dataclass(frozen=True)
class Selector:
    """Ranks a prompt's passages by a method, and says which of them always stay.

    The instruction always stays: the passages that the last ``window`` tokens lie in, or the whole
    last text where it is shorter. So does the head: those that the first ``head`` tokens lie in.
    Whatever a chat template puts around the texts is no part of them.

    Attributes:
        method: scores the passages.
        window: tokens of the instruction; the engine's observation window.
        head: tokens of the head.
    """

    method: SelectionMethod
    window: int
    head: int

    def rank(self, texts: Sequence[str], prompt_tokens: int) -> RankedTexts:
        """Rank the passages of ``texts``, the last of which ends with the instruction.

        ``prompt_tokens`` says how many characters a token has here: tokens are not counted.
        """
        pieces = [split(text) for text in texts]
        passages = [passage for piece in pieces for passage in piece]
        text_of = np.repeat(np.arange(len(texts)), [len(piece) for piece in pieces])
        lengths = np.array([len(passage) for passage in passages], dtype=np.int64)
        per_token = lengths.sum() / max(1, prompt_tokens)
        first = np.cumsum(lengths) - lengths
        behind = lengths.sum() - first - lengths
        in_last = text_of == len(texts) - 1
        instructs = in_last & (behind < self.window * per_token)
        always = instructs | (first < self.head * per_token)
        instruction = "".join(passages[index] for index in np.flatnonzero(instructs))
        scores = self.method.scores(passages, instruction)
        # Last key first: what always stays, then the score, then the end of the prompt.
        order = np.lexsort((-np.arange(len(passages)), -scores, ~always))
        return RankedTexts(passages, text_of, order, int(always.sum()), len(texts))
