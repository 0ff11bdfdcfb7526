# SPDX-License-Identifier: Apache-2.0
"""Whether plans rest on sound predictions: lengths and times, predicted against actual."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from timebill_ros.budget.plan import Plan
from timebill_ros.runtime.health import ENOUGH, WINDOW, Level, Report
from timebill_ros.runtime.outcome import Outcome, Reason, Response, Stage
from timebill_ros.runtime.settings import Settings

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
        time_margin: how much slower than profiled the plan took decoding to be, in proportion.
    """

    length: tuple[float, float] | None
    time: tuple[float, float] | None
    prefill: tuple[float, float]
    beyond_planned: bool
    beyond_wcet: bool
    predicted: bool
    time_margin: float


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
        return True
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
    )


def _error(pairs: Iterable[tuple[float, float] | None]) -> str:
    """Absolute errors over actual values, both summed.

    A mean of single ratios would be all about answers of a few tokens, which the upper edge of a
    bucket exceeds several times over at no cost.
    """
    known = [pair for pair in pairs if pair is not None]
    actual = sum(pair[1] for pair in known)
    return f"{sum(abs(p - a) for p, a in known) / actual:.3f}" if actual > 0 else _NONE


def _share(flags: Iterable[bool]) -> float:
    counted = list(flags)
    return sum(counted) / len(counted) if counted else 0.0
