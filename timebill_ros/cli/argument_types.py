# SPDX-License-Identifier: Apache-2.0
"""What several commands take as an argument, checked as it is parsed."""

from __future__ import annotations

import argparse
import math

# Durations in messages have a signed 32-bit number of seconds.
_LONGEST = 2.0**31


def positive_seconds(text: str) -> float:
    """A duration that fits a message.

    Raises:
        argparse.ArgumentTypeError: it is no number, not above 0 s, or longer than 68 years.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0 and below {_LONGEST:.0f} s")
    return value


def node_name(text: str) -> str:
    """A node's full name; the leading slash may be left out."""
    return text if text.startswith("/") else f"/{text}"


def positive_count(text: str) -> int:
    """A whole number, 1 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)
