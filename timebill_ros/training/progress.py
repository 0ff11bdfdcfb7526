# SPDX-License-Identifier: Apache-2.0
"""How far something long is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

PERIOD = 20.0  # s between two lines in a log


class Lines:
    """Tells on stderr how far something is, at most once in ``PERIOD`` s."""

    def __init__(
        self, doing: str, total: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin; ``total`` is None where it is not known."""
        self._doing = doing
        self._of = "" if total is None else f" of {total}"
        self._clock = clock
        self._begun = self._told = clock()

    def tell(self, done: int, more: str = "") -> None:
        """Say that so many are done, and ``more`` about it, if it is time for a line."""
        now = self._clock()
        if now - self._told >= PERIOD:
            self._told = now
            parts = [f"{self._doing}: {done}{self._of}", more, f"{now - self._begun:.0f} s"]
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


def track(items: Iterable[Item], doing: str, total: int | None = None) -> Iterable[Item]:
    """The items, while it is told how far they are; ``total`` if they do not know their number."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        bar: Iterable[Item] = tqdm(items, desc=doing, total=total)
        return bar
    return _telling(items, Lines(doing, total))


def _telling(items: Iterable[Item], lines: Lines) -> Iterator[Item]:
    for number, item in enumerate(items):
        lines.tell(number)
        yield item


def hide_library_bars() -> None:
    """Have transformers draw no bars into a log."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
