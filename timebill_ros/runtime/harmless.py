# SPDX-License-Identifier: Apache-2.0
"""Text of others, made fit for a log, a terminal, a diagnostic or a file name."""

from __future__ import annotations

import logging
import traceback
import unicodedata

# Longest text of others in one line of a log or diagnostic, characters.
LINE_LENGTH = 1000

# Control characters, halves of surrogate pairs, and separators of lines and paragraphs.
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
# They turn the direction of what follows them, beyond the end of the text.
_DIRECTIONS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless_line(text: str, longest: int = LINE_LENGTH) -> str:
    """One line of at most ``longest`` characters of the text; what was left out is counted.

    Whoever names an instruction, or writes a file that is read, could otherwise end a line of the
    log and forge the next one, or send a terminal commands.
    """
    shown = _escaped(text[:longest], kept="")
    left_out = len(text) - longest
    return f"{shown}... and {left_out} characters more" if left_out > 0 else shown


def harmless_text(text: str) -> str:
    r"""The text with its lines and tabs; every other control character as its escape, ``\x1b``."""
    return _escaped(text, kept="\n\t")


class HarmlessFormatter(logging.Formatter):
    """A record's message in one line; its traceback's lines cannot pass for another record's."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        told = harmless_line(record.getMessage())
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info))
            told += "".join(f"\n  | {harmless_line(line)}" for line in trace.splitlines())
        return told


def log_to_stderr() -> None:
    """Have a command's log, from the level INFO on, go to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _escaped(text: str, *, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _controls(c) else _escape(c) for c in text)


def _controls(character: str) -> bool:
    return character in _DIRECTIONS or unicodedata.category(character) in _CONTROLS


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
