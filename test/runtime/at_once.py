# SPDX-License-Identifier: Apache-2.0
"""The same work on several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = 4
PATIENCE = 120.0


def run_at_once(work: Callable[[], None]) -> None:
    """Run ``work`` on every thread; what it raises on any of them is raised here."""
    with ThreadPoolExecutor(THREADS) as pool:
        for running in [pool.submit(work) for _ in range(THREADS)]:
            running.result(PATIENCE)
