# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands take, the node's parameters among them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.runtime.settings import Settings

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


def add_parameters(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """An option for each of the node's parameters ``names``, with its default and description."""
    defaults = {field.name: field.default for field in fields(Settings)}
    for name in names:
        default = defaults[name]
        several = isinstance(default, tuple)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=str if several else type(default),
            nargs="*" if several else None,
            default=default,
            help=SPECS[name].description.replace("%", "%%"),
        )


def take_settings(
    parser: argparse.ArgumentParser, options: dict[str, Any], names: Iterable[str]
) -> Settings:
    """Settings from the options that ``add_parameters`` added, which are taken out of ``options``.

    A value out of the parameter's range ends the command through ``parser.error``.
    """
    given = {name: options.pop(name) for name in names}
    for name, value in given.items():
        bounds = SPECS[name].range
        if bounds is not None and not bounds.low <= value <= bounds.high:
            parser.error(f"{name} must be in {bounds.low:g}..{bounds.high:g}, not {value}")
        if isinstance(value, list):
            given[name] = tuple(filter(None, value))
    return Settings(**given)
