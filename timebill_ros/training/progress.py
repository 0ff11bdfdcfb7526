# SPDX-License-Identifier: Apache-2.0
"""Progress bars on a terminal, and silence where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], doing: str) -> Iterable[Item]:
    """The items, with a bar of how far they are."""
    bar: Iterable[Item] = tqdm(items, desc=doing, disable=None)
    return bar


def hide_library_bars() -> None:
    """Have transformers draw no bars into a log."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
