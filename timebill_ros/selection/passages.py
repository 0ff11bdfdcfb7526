# SPDX-License-Identifier: Apache-2.0
"""Cutting a text into passages: what is kept or dropped as a whole."""

from __future__ import annotations

import re
from itertools import pairwise

# A passage ends with a sentence, a record or a line; the white space behind it belongs to it.
_END = re.compile(r"(?:[.!?;]+[\"')\]]*\s+|\n\s*)")
_WORD = re.compile(r"\S+\s*")
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
        if len(started.split()) >= _FEWEST_WORDS:
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
