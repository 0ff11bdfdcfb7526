# SPDX-License-Identifier: Apache-2.0
"""What became of one instruction, as plain values: for the table, the CSV file and the picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

import timebill_ros.msg as msg
from timebill_ros.node.conversions import REASONS, nanoseconds
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.outcome import Outcome, Response, Timing


class Ending(StrEnum):
    """How an instruction ended, as its sender sees it."""

    IN_TIME = "in time"
    LATE = "late"
    KILLED = "killed"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    REJECTED = "rejected"
    CANCELED = "canceled"
    FAILED = "failed"
    MISSING = "missing"  # nothing was heard of it: the node broke its contract, or died

    @property
    def missed(self) -> bool:
        """Whether the deadline was the reason: the overruns that a budget can cause."""
        return self in (Ending.LATE, Ending.KILLED, Ending.SKIPPED, Ending.EXPIRED)


_ENDINGS = {number: Ending(reason.value) for reason, number in REASONS.items()}


@dataclass(frozen=True)
class Planned:
    """The numbers of a plan. N_hat is 0 where no prediction came in time; times are in s.

    ``risk``, of a response longer than N_W, is None where it was not known, and so is ``score``,
    which was measured at alpha and rho, the share of the prompt that selection kept.
    ``reused_tokens`` of the prompt were prefilled for an earlier one. ``model`` is the one that was
    chosen, "" where nothing told. Alpha is reached at the response token ``evicted_at``: 1 where
    everything was evicted after prefill.
    """

    predicted_tokens: int
    planned_tokens: int
    alpha: float
    feasible: bool
    predicted_time: float
    wcet: float
    risk: float | None = None
    score: float | None = None
    rho: float = 1.0
    expected_score: float | None = None
    reused_tokens: int = 0
    model: str = ""
    evicted_at: int = 1

    @property
    def kept(self) -> float:
        """Share of the whole prompt that stays: what selection keeps and eviction leaves of it."""
        return self.rho * (1.0 - self.alpha)

    @property
    def gives_up(self) -> bool:
        """Whether part of the prompt, or of its cache, is given up to be in time."""
        return self.kept < 1.0


@dataclass(frozen=True)
class Record:
    """One ended instruction.

    Attributes:
        prompt_tokens: N_x; 0 where nothing told.
        released: s, on the ROS clock of the sender.
        budget: s from release to deadline.
        response_tokens: N so far.
        plan: None where it ended before one was made.
        text: the answer, or what there was of it.
        detail: why there is no answer, in words.
        truncated: whether the answer was cut short, to its best complete prefix.
    """

    id: str
    prompt_tokens: int
    released: float
    budget: float
    ending: Ending
    response_tokens: int
    plan: Planned | None
    timing: Timing
    text: str
    detail: str = ""
    truncated: bool = False

    @property
    def execution(self) -> float:
        """Real seconds of the engine's work, as plans predict them; 0 where it never started."""
        return self.timing.execution

    @property
    def outcome(self) -> str:
        """How it ended, in a word for tables."""
        return "truncated" if self.truncated else self.ending.value


def record_of_message(
    instruction: msg.Instruction, message: msg.Response | msg.Overrun, prompt_tokens: int = 0
) -> Record:
    """The record of an instruction that this message ended.

    ``prompt_tokens`` fills in for an instruction that ended before it was tokenised.
    """
    answered = isinstance(message, msg.Response)
    return Record(
        id=message.id,
        prompt_tokens=message.plan.prompt_tokens or prompt_tokens,
        released=seconds(nanoseconds(message.header.stamp)),
        budget=_budget(instruction, message.timing),
        ending=_ending(message),
        response_tokens=message.response_tokens,
        plan=_planned(message.plan),
        timing=_timing(message.timing),
        text=message.text if answered else message.partial_text,
        detail="" if answered else message.detail,
        truncated=answered and message.truncated,
    )


def missing_record(instruction: msg.Instruction) -> Record:
    """The record of an instruction that has not ended although it should have."""
    return Record(
        id=instruction.id,
        prompt_tokens=0,
        released=seconds(nanoseconds(instruction.header.stamp)),
        budget=seconds(nanoseconds(instruction.budget)),
        ending=Ending.MISSING,
        response_tokens=0,
        plan=None,
        timing=Timing(),
        text="",
        detail="nothing was heard of it",
    )


def record_of_outcome(outcome: Outcome, prompt_tokens: int) -> Record:
    """The record of a job that ended in this process, without its text."""
    plan, job = outcome.plan, outcome.job
    names = [field.name for field in fields(Planned)]
    if isinstance(outcome, Response):
        ending, detail = (Ending.LATE if outcome.late else Ending.IN_TIME), ""
        truncated = outcome.truncated
    else:
        ending, detail, truncated = Ending(outcome.reason.value), outcome.detail, False
    return Record(
        id=job.id,
        prompt_tokens=prompt_tokens,
        released=seconds(job.release_ns),
        budget=seconds(job.deadline_ns - job.release_ns),
        ending=ending,
        response_tokens=outcome.response_tokens,
        plan=None if plan is None else Planned(**{name: getattr(plan, name) for name in names}),
        timing=outcome.timing,
        text="",
        detail=detail,
        truncated=truncated,
    )


# Longest id that a table shows, characters; those of this package are UUIDs at most.
_ID_WIDTH = 40

HEADER = (
    f"{'':6}{'prompt':>8}{'budget':>9}{'length':>12}{'':>12}{'time':>16}{'slack':>9}\n"
    f"{'id':6}{'tokens':>8}{'s':>9}{'pred.':>7}{'act.':>5}{'rho':>6}{'alpha':>6}"
    f"{'pred. s':>9}{'act. s':>7}{'s':>9}  outcome"
)


def line(record: Record) -> str:
    """One line of the table under ``HEADER``; '-' for what there is not."""
    plan = record.plan
    predicted = str(plan.predicted_tokens) if plan and plan.predicted_tokens else "-"
    rho, alpha = (f"{plan.rho:.2f}", f"{plan.alpha:.2f}") if plan else ("-", "-")
    predicted_time = f"{plan.predicted_time:.3f}" if plan else "-"
    actual = str(record.response_tokens) if record.response_tokens else "-"
    execution = f"{record.execution:.3f}" if record.execution else "-"
    id = harmless_line(record.id, _ID_WIDTH)
    return (
        f"{id:6}{record.prompt_tokens:>8}{record.budget:>9.3f}{predicted:>7}{actual:>5}"
        f"{rho:>6}{alpha:>6}{predicted_time:>9}{execution:>7}{record.timing.slack:>+9.3f}"
        f"  {record.outcome}"
    )


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write one row per record, times in s."""
    with path.open("w", newline="") as file:
        rows = [_row(record) for record in records]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _row(record: Record) -> dict[str, object]:
    plan = record.plan
    return {
        "id": record.id,
        "outcome": record.ending.value,
        "truncated": record.truncated,
        "prompt_tokens": record.prompt_tokens,
        "released": f"{record.released:.6f}",
        "budget": record.budget,
        "reused_tokens": plan.reused_tokens if plan else "",
        "predicted_tokens": plan.predicted_tokens if plan else "",
        "planned_tokens": plan.planned_tokens if plan else "",
        "risk": plan.risk if plan and plan.risk is not None else "",
        "response_tokens": record.response_tokens,
        "model": plan.model if plan else "",
        "rho": plan.rho if plan else "",
        "alpha": plan.alpha if plan else "",
        "score": plan.score if plan and plan.score is not None else "",
        "expected_score": (plan.expected_score if plan and plan.expected_score is not None else ""),
        "feasible": plan.feasible if plan else "",
        "predicted_time": plan.predicted_time if plan else "",
        "wcet": plan.wcet if plan else "",
        "execution": record.execution,
        **vars(record.timing),
        "detail": record.detail,
        "text": record.text,
    }


def _budget(instruction: msg.Instruction, timing: msg.Timing) -> float:
    """Seconds from release to deadline; as the node tells it where the budget does not decide."""
    if nanoseconds(instruction.budget) and not nanoseconds(instruction.deadline):
        return seconds(nanoseconds(instruction.budget))
    return seconds(nanoseconds(timing.total) + nanoseconds(timing.slack))


def _ending(message: msg.Response | msg.Overrun) -> Ending:
    if isinstance(message, msg.Response):
        return Ending.LATE if message.late else Ending.IN_TIME
    return _ENDINGS[message.reason]


def _planned(message: msg.Plan) -> Planned | None:
    if not message.planner:
        return None
    return Planned(
        predicted_tokens=message.predicted_tokens,
        planned_tokens=message.planned_tokens,
        alpha=message.alpha,
        feasible=message.feasible,
        predicted_time=seconds(nanoseconds(message.predicted_time)),
        wcet=seconds(nanoseconds(message.wcet)),
        risk=message.risk if message.risk >= 0.0 else None,
        score=message.score if message.score >= 0.0 else None,
        rho=message.rho,
        expected_score=message.expected_score if message.expected_score >= 0.0 else None,
        reused_tokens=message.reused_tokens,
        model=message.model,
        evicted_at=message.evictions[-1].at_token if message.evictions else 1,
    )


def _timing(message: msg.Timing) -> Timing:
    names = ("queued", "predict", "prefill", "evict", "decode", "total", "slack")
    return Timing(**{name: seconds(nanoseconds(getattr(message, name))) for name in names})
