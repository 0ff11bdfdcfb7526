# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a source of prompts."""

from __future__ import annotations

from collections.abc import Iterable

from timebill_ros.predictor.errors import PairsError


class SourceUnavailable(PairsError):
    """A data set that is neither there nor to be had."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"data set {name!r} cannot be read: {reason}")


class UnknownSchema(PairsError):
    """A data set whose columns say nothing about prompts."""

    def __init__(self, name: str, columns: Iterable[str], known: Iterable[str]) -> None:
        super().__init__(
            f"data set {name!r} has the columns {', '.join(sorted(columns)) or '(none)'}; "
            f"known are {'; '.join(known)}"
        )
