# SPDX-License-Identifier: Apache-2.0
"""How well the server does, as levels with the reason: deadlines, queue, memory."""

from __future__ import annotations

import resource
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from timebill_ros.runtime.outcome import Outcome, Reason, Response
from timebill_ros.runtime.settings import Settings

# Shares are taken over at most this many of the last outcomes: one more moves a level's boundary by
# a hundredth, so that a level does not flicker and needs no hysteresis.
WINDOW = 100
# A share of fewer outcomes than this says nothing yet.
ENOUGH = 10

# Share of the queue's capacity from which it counts as nearly full.
_NEARLY_FULL = 0.75
# Shares of the machine's memory that are left when the kernel may soon end a process.
_LITTLE_MEMORY, _NO_MEMORY = 0.10, 0.03
_MIB = 1024.0 * 1024.0

# Not the node's doing, so no miss: what the sender got wrong or withdrew.
_NOT_MISSED = {Reason.REJECTED, Reason.CANCELED}

# Keys that readers of the reports look for.
MISS_RATIO = "miss ratio"
QUEUE_DEPTH = "queue depth"
QUEUE_CAPACITY = "queue capacity"
OUTCOMES = "outcomes: "
PRESENT_MEMORY = "present memory [MiB]"
PEAK_MEMORY = "peak memory [MiB]"


class Level(IntEnum):
    """Those of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Report:
    """What is said of one subject: its level, why, and the figures."""

    level: Level
    message: str
    values: dict[str, str] = field(default_factory=dict)


class DeadlineHealth:
    """Which of the last instructions missed their deadline, and what became of all of them.

    A miss is an instruction without a response in time; one that was rejected or canceled is none,
    nor is an answer that its deadline cut short: it came in time, and is counted by itself.
    Besides their share, misses are held to a weakly hard constraint, as control loops state it
    (Bernat, Burns and Llamosi, "Weakly Hard Real-Time Systems", IEEE Trans. Computers 50(4), 2001):
    at most m = ``firm_misses`` in any k = ``firm_window`` consecutive instructions.
    """

    def __init__(self) -> None:
        """No outcome yet."""
        self._counts: Counter[str] = Counter()
        self._missed: deque[bool] = deque(maxlen=WINDOW)
        self._last_slack = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take one outcome into account; LATE is none, its response follows."""
        if isinstance(outcome, Response):
            self._counts[_kind(outcome)] += 1
            self._missed.append(outcome.late)
        elif outcome.terminal:
            self._counts[outcome.reason.value] += 1
            if outcome.reason not in _NOT_MISSED:
                self._missed.append(True)
        self._last_slack = outcome.timing.slack

    def report(self, settings: Settings) -> Report:
        """ERROR where a bound is broken, WARN where one is close, with the first reason found."""
        missed = list(self._missed)
        ratio = sum(missed) / len(missed) if missed else 0.0
        m, k = settings.firm_misses, settings.firm_window
        firm = sum(missed[-k:])
        counted = len(missed) >= ENOUGH
        values = {
            MISS_RATIO: f"{ratio:.3f}",
            f"misses of the last {k}": str(firm),
            "misses in a row": str(_run_at_end(missed)),
            "last slack [s]": f"{self._last_slack:.4f}",
            **{f"{OUTCOMES}{key}": str(count) for key, count in sorted(self._counts.items())},
        }
        share = f"{ratio:.0%} of the last {len(missed)} instructions missed their deadline"
        if firm > m:
            return Report(Level.ERROR, f"{firm} of the last {k} missed, {m} may", values)
        if counted and ratio > settings.miss_ratio_error:
            return Report(Level.ERROR, share, values)
        if 0 < firm == m:
            return Report(Level.WARN, f"{firm} of the last {k} missed, no more may", values)
        if counted and ratio > settings.miss_ratio_warn:
            return Report(Level.WARN, share, values)
        return Report(Level.OK, "meeting deadlines", values)


def queue_report(depth: int, peak: int, capacity: int) -> Report:
    """ERROR where the queue was full, WARN from three quarters on.

    Args:
        depth: instructions that wait now.
        peak: most that waited at once since the last report; a burst between two counts as well.
        capacity: most that may wait.
    """
    values = {QUEUE_DEPTH: str(depth), "queue peak": str(peak), QUEUE_CAPACITY: str(capacity)}
    if peak >= capacity:
        return Report(Level.ERROR, f"full with {capacity} instructions: more are rejected", values)
    if peak >= _NEARLY_FULL * capacity:
        return Report(Level.WARN, f"{peak} of {capacity} places were taken", values)
    return Report(Level.OK, "has room", values)


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


def memory_report(memory: Memory) -> Report:
    """WARN, then ERROR, where the machine's memory runs out; what the process holds is a figure."""
    values = {
        PRESENT_MEMORY: f"{memory.present:.0f}",
        PEAK_MEMORY: f"{memory.peak:.0f}",
    }
    left = memory.available_share
    if left is None:
        return Report(Level.OK, "the machine's memory is unknown", values)
    values["available [%]"] = f"{left:.1%}".rstrip("%")
    message = f"{left:.0%} of the machine's memory is available"
    if left < _NO_MEMORY:
        return Report(Level.ERROR, message, values)
    return Report(Level.WARN if left < _LITTLE_MEMORY else Level.OK, message, values)


def _kind(response: Response) -> str:
    if response.truncated:
        return "truncated"
    return "late" if response.late else "in time"


def _run_at_end(missed: list[bool]) -> int:
    """How many of the last outcomes, without a gap, were misses."""
    return next((i for i, miss in enumerate(reversed(missed)) if not miss), len(missed))
