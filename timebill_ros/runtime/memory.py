# SPDX-License-Identifier: Apache-2.0
"""How much memory this process holds, and how much the machine has left."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024.0 * 1024.0


@dataclass(frozen=True)
class Memory:
    """The memory of this process, MiB.

    Attributes:
        present, peak: resident now, and at most so far.
        available_share: of the machine's memory, what can still be had; None where the system does
            not tell (it is read from Linux's /proc).
    """

    present: float
    peak: float
    available_share: float | None


def memory_now(proc: Path = Path("/proc")) -> Memory:
    """The memory at this moment."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Kilobytes on Linux, bytes on macOS.
    peak = usage.ru_maxrss / (_MIB if sys.platform == "darwin" else 1024.0)
    try:
        resident_pages = int((proc / "self/statm").read_text().split()[1])
        machine = _kilobytes((proc / "meminfo").read_text())
        share = machine["MemAvailable"] / machine["MemTotal"]
    except (OSError, KeyError, ValueError, IndexError, ZeroDivisionError):
        return Memory(present=peak, peak=peak, available_share=None)
    present = resident_pages * resource.getpagesize() / _MIB
    return Memory(present=present, peak=max(peak, present), available_share=share)


def _kilobytes(meminfo: str) -> dict[str, int]:
    """The lines ``Name:  1234 kB`` of /proc/meminfo."""
    rows = (line.split() for line in meminfo.splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) >= 2}
