# SPDX-License-Identifier: Apache-2.0
"""The node's parameters as arguments of a command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.runtime.settings import Settings


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
