# SPDX-License-Identifier: Apache-2.0
"""What of an unfinished text, or JSON text, can stand for itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Behind a digit a full stop ends a sentence only where a space follows: "3." may become "3.5". A
# line's end and a semicolon, which ends records, stand for themselves.
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s)|(?<=[^\W\d_])[.!?]+[\"')\]]*\Z|\n|;")
_PIECE = re.compile(
    rb"""(?P<string> " (?: [^"\\] | \\. )* ")
    | (?P<unclosed> " .*)
    | (?P<mark> [{}\[\],:])
    | (?P<bare> [^\s"{}\[\],:]+)  # a number or a literal""",
    re.VERBOSE | re.DOTALL,
)
_CLOSER = {b"{": b"}", b"[": b"]"}
_LITERALS = (b"true", b"false", b"null")

ANY_WORDS = (b" a", b" z", b" 7")
"""A string is free text where it may go on with any word; names and choices are not."""

MOST_CLOSINGS = 64
"""Ways to close a text that are worth trying: what cannot be closed is known within a millisecond
or two. One unfinished element of a list has about as many as members."""


def complete_prefix(text: str) -> str:
    """``text`` up to the last end of a sentence, line or record, or else its whole words.

    The last word counts as whole only where a space follows. Empty where no word is whole.
    """
    ends = [match.end() for match in _END.finditer(text)]
    if ends and (complete := text[: ends[-1]].strip()):
        return complete
    return text[: len(text) - len(re.split(r"\s", text)[-1])].strip()


@dataclass(frozen=True)
class Closing:
    """One way to end an unfinished JSON text.

    Attributes:
        kept: bytes of the text that stay.
        closers: what is put behind them: quotes and brackets, never a key or a value.
        prose: the cut goes through a string, behind a whole word of it. That is the beginning of
            what was to be said only if the string is free text: half a name is another name.
    """

    kept: int
    closers: bytes
    prose: bool = False

    def closed(self, text: bytes, word: bytes = b"") -> str:
        """The ``text`` cut and closed; with ``word`` as if it had gone on by that."""
        return (text[: self.kept] + word + self.closers).decode()


def closings(text: bytes) -> Iterator[Closing]:
    """Ways to end ``text``, the beginning of a valid JSON text; those that keep most come first.

    Nothing is kept that may not be whole: no key without its value, no number that might have had
    more digits, no half literal. Bytes are UTF-8; half a character can only be in a string.
    """
    found: list[Closing] = []
    closers = b""  # of the open containers, innermost first
    mark = b""  # the last one
    for piece in _PIECE.finditer(text):
        kind, end = piece.lastgroup, piece.end()
        is_key = closers[:1] == b"}" and mark != b":"
        if kind == "mark":
            mark = piece[0]
            if mark in _CLOSER:
                closers = _CLOSER[mark] + closers
            elif mark == closers[:1]:
                closers = closers[1:]
            else:  # a comma or a colon ends nothing that has not ended before
                continue
        elif is_key:
            continue
        elif kind == "unclosed":
            end = _last_word(text, piece.start())
            if end:
                found.append(Closing(end, b'"' + closers, prose=True))
            continue
        elif kind == "bare" and end == len(text) and piece[0] not in _LITERALS:
            continue
        found.append(Closing(end, closers))
    return reversed(found)


def _last_word(text: bytes, start: int) -> int:
    """Where the last whole word of the unclosed string at ``start`` ends; 0 if it has none."""
    space = text.rfind(b" ", start)
    end = len(text[: space + 1].rstrip(b" "))
    return end if end > start + 1 else 0
