# SPDX-License-Identifier: Apache-2.0
"""The part of an unfinished text that can stand for itself."""

from __future__ import annotations

import re

# Behind a digit a full stop ends a sentence only where a space follows: "3." may become "3.5". A
# line's end and a semicolon, which ends records, stand for themselves.
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s)|(?<=[^\W\d_])[.!?]+[\"')\]]*\Z|\n|;")


def complete_prefix(text: str) -> str:
    """``text`` up to the last end of a sentence, line or record, or else its whole words.

    The last word counts as whole only where a space follows. Empty where no word is whole.
    """
    ends = [match.end() for match in _END.finditer(text)]
    if ends and (complete := text[: ends[-1]].strip()):
        return complete
    return text[: len(text) - len(re.split(r"\s", text)[-1])].strip()
