# SPDX-License-Identifier: Apache-2.0
"""The selection methods under the names that a user chooses them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from timebill_ros.budget.errors import SettingError
from timebill_ros.selection.blind import RandomPassages, Recent
from timebill_ros.selection.lexical import Lexical
from timebill_ros.selection.method import SelectionMethod

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
