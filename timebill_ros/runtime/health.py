# SPDX-License-Identifier: Apache-2.0
"""How well the server does, as levels with the reason: deadlines, memory, predictions."""

from __future__ import annotations

import resource
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.runtime.engine_chain import EngineChain
from timebill_ros.runtime.outcome import Outcome, Reason, Response, Stage
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
        self._planned: deque[Plan] = deque(maxlen=WINDOW)
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
        last = isinstance(outcome, Response) or outcome.terminal
        if last and outcome.plan is not None:
            self._planned.append(outcome.plan)
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
            **_given_up(self._planned),
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


def _given_up(plans: Collection[Plan]) -> dict[str, str]:
    """How much of their prompts, and of the caches, the last plans gave up, in the mean."""
    if not plans:
        return {}
    means = {
        "mean rho": sum(plan.rho for plan in plans) / len(plans),
        "mean alpha": sum(plan.alpha for plan in plans) / len(plans),
    }
    return {name: f"{mean:.3f}" for name, mean in means.items()}


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


def engine_report(chain: EngineChain) -> Report:
    """WARN where an engine failed and is left alone for a while; else which answers how many."""
    left_alone = ", ".join(chain.left_alone())
    if left_alone:
        return Report(Level.WARN, f"left alone for a while: {left_alone}", chain.status())
    return Report(Level.OK, "every engine may answer", chain.status())


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
    """Warn before the machine's memory runs out, and tell how much of it the process holds."""
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
    if response.finish_reason is FinishReason.FALLBACK:
        return "fallback text"
    if response.truncated:
        return "truncated"
    return "late" if response.late else "in time"


def _run_at_end(missed: list[bool]) -> int:
    """How many of the last outcomes, without a gap, were misses."""
    return next((i for i, miss in enumerate(reversed(missed)) if not miss), len(missed))


_NONE = "-"


@dataclass(frozen=True)
class _Comparison:
    """One plan beside what came, as (predicted, actual) pairs; None where one is unknown.

    Attributes:
        length: tokens; unknown without a prediction, or where decoding was cut short.
        time: s of execution; N_hat tokens are assumed, so a wrong length is in its error.
        prefill: s of prefill, which the time model predicts alone.
        beyond_planned: more tokens came than the plan had to survive, N > N_W.
        beyond_wcet: execution outlasted the plan's worst case, or its deadline came although the
            worst case was to end before.
        predicted: a prediction came in time.
        prompt_tokens, reused_tokens: of the prompt, and of those what an earlier one left.
        time_margin: how much slower than profiled the plan took decoding to be, in proportion.
    """

    length: tuple[float, float] | None
    time: tuple[float, float] | None
    prefill: tuple[float, float]
    beyond_planned: bool
    beyond_wcet: bool
    predicted: bool
    time_margin: float
    prompt_tokens: int
    reused_tokens: int


class PredictionHealth:
    """Compares the last hundred plans with what became of them."""

    def __init__(self) -> None:
        """No plan yet."""
        self._faults: deque[str] = deque(maxlen=WINDOW)  # "" for a predictor that did not fail
        self._last: deque[_Comparison] = deque(maxlen=WINDOW)

    def add(self, outcome: Outcome) -> None:
        """Take an outcome into account that has a plan.

        Predicted and actual are compared where it was decoded to its end, or to its deadline.
        """
        if outcome.plan is not None:
            self._faults.append(outcome.predictor_fault)
        if outcome.plan is not None and _decoded(outcome):
            complete = isinstance(outcome, Response) and not outcome.truncated
            self._last.append(_compare(outcome, outcome.plan, complete=complete))

    def report(self, settings: Settings) -> Report:
        """WARN where the predictor failed, or more plans than ``beyond_plan_warn`` did not hold.

        Never ERROR.

        A plan that did not hold need not have missed its deadline: misses are a subject of their
        own.
        """
        last, faults = list(self._last), [fault for fault in self._faults if fault]
        planned = _share(c.beyond_planned for c in last)
        wcet = _share(c.beyond_wcet for c in last)
        values = {
            "length error": _error(c.length for c in last),
            "time error": _error(c.time for c in last),
            "prefill error": _error(c.prefill for c in last),
            "share beyond planned_tokens": f"{planned:.3f}",
            "share beyond wcet": f"{wcet:.3f}",
            "share without prediction": f"{_share(not c.predicted for c in last):.3f}",
            "share of prompts reused": _reused(last),
            "time margin": f"{last[-1].time_margin:.3f}" if last else _NONE,
            "predictor failures": f"{len(faults)} of {len(self._faults)}",
            "plans": str(len(last)),
        }
        if faults:
            message = f"the length predictor failed {values['predictor failures']} times"
            return Report(Level.WARN, f"{message}, last with {faults[-1]}", values)
        if len(last) >= ENOUGH and planned > settings.beyond_plan_warn:
            message = f"{planned:.0%} of the answers were longer than planned: plan for more"
            return Report(Level.WARN, message, values)
        if len(last) >= ENOUGH and wcet > settings.beyond_plan_warn:
            message = f"{wcet:.0%} of the answers took longer than their worst case: profile again"
            return Report(Level.WARN, message, values)
        return Report(Level.OK, "plans hold", values)


def _decoded(outcome: Outcome) -> bool:
    """Whether it came to its end, or to its deadline while it was decoded."""
    if isinstance(outcome, Response):
        return outcome.finish_reason is not FinishReason.FALLBACK
    return outcome.reason is Reason.KILLED and outcome.stage is Stage.DECODE


def _compare(outcome: Outcome, plan: Plan, *, complete: bool) -> _Comparison:
    timing, tokens = outcome.timing, outcome.response_tokens
    predicted = plan.predicted_tokens > 0
    return _Comparison(
        length=(plan.predicted_tokens, tokens) if complete and predicted else None,
        time=(plan.predicted_time, timing.execution) if complete else None,
        prefill=(outcome.predicted_prefill, timing.prefill),
        beyond_planned=tokens > plan.planned_tokens,
        beyond_wcet=timing.execution > plan.wcet or (plan.feasible and not complete),
        predicted=predicted,
        time_margin=plan.time_margin,
        prompt_tokens=plan.prompt_tokens,
        reused_tokens=plan.reused_tokens,
    )


def _error(pairs: Iterable[tuple[float, float] | None]) -> str:
    """Absolute errors over actual values, both summed.

    A mean of single ratios would be all about answers of a few tokens, which the upper edge of a
    bucket exceeds several times over at no cost.
    """
    known = [pair for pair in pairs if pair is not None]
    actual = sum(pair[1] for pair in known)
    return f"{sum(abs(p - a) for p, a in known) / actual:.3f}" if actual > 0 else _NONE


def _reused(last: Iterable[_Comparison]) -> str:
    """Tokens that needed no prefill, over all of the prompts' tokens."""
    tokens = [(c.reused_tokens, c.prompt_tokens) for c in last]
    total = sum(prompt for _, prompt in tokens)
    return f"{sum(reused for reused, _ in tokens) / total:.3f}" if total else _NONE


def _share(flags: Iterable[bool]) -> float:
    counted = list(flags)
    return sum(counted) / len(counted) if counted else 0.0
