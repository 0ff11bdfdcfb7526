# SPDX-License-Identifier: Apache-2.0
"""What the node says of its health on /diagnostics."""

from __future__ import annotations

import resource
import sys
from collections import Counter, deque

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time

from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response

# Share of the last outcomes, and their number, that the level is taken from.
_WINDOW = 100
_WARN_MISS_RATIO = 0.1
# Not the node's doing, so no miss: what the sender got wrong or withdrew.
_NOT_MISSED = {Reason.REJECTED, Reason.CANCELED}


class OutcomeStatistics:
    """Counts outcomes; fed by the engine's thread, read by the executor's."""

    def __init__(self) -> None:
        """No outcome yet."""
        self._counts: Counter[str] = Counter()
        self._missed: deque[bool] = deque(maxlen=_WINDOW)
        self._last_alpha = 0.0
        self._last_slack = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        if isinstance(outcome, Response):
            self._counts["late" if outcome.late else "in time"] += 1
            self._missed.append(outcome.late)
            self._last_alpha = outcome.plan.alpha
        elif isinstance(outcome, Overrun) and outcome.terminal:
            self._counts[outcome.reason.value] += 1
            if outcome.reason not in _NOT_MISSED:
                self._missed.append(True)
        self._last_slack = outcome.timing.slack

    @property
    def miss_ratio(self) -> float:
        """Share of the last instructions that got no response in time."""
        missed = list(self._missed)
        return sum(missed) / len(missed) if missed else 0.0

    def status(self, name: str, hardware_id: str, queue_depth: int) -> DiagnosticStatus:
        """OK, or WARN where more than a tenth of the last hundred instructions missed."""
        ratio = self.miss_ratio
        healthy = ratio <= _WARN_MISS_RATIO
        values = {
            "miss ratio": f"{ratio:.3f}",
            "queue depth": str(queue_depth),
            "last alpha": f"{self._last_alpha:.3f}",
            "last slack [s]": f"{self._last_slack:.4f}",
            "peak memory [MiB]": f"{peak_memory_mib():.0f}",
            **{f"outcomes: {key}": str(count) for key, count in sorted(self._counts.items())},
        }
        return DiagnosticStatus(
            level=DiagnosticStatus.OK if healthy else DiagnosticStatus.WARN,
            name=name,
            message="meeting deadlines" if healthy else f"{ratio:.0%} of instructions missed",
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )


def diagnostic_array(now: Time, status: DiagnosticStatus) -> DiagnosticArray:
    """The message of one status."""
    array = DiagnosticArray(status=[status])
    array.header.stamp = now.to_msg()
    return array


def peak_memory_mib() -> float:
    """Most memory that this process has held, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
