# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and the runtime's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time as TimeMsg
from std_msgs.msg import Header

import timebill_ros.msg as msg
from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, SamplingOverride, Turn
from timebill_ros.runtime.admission import Reception
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Overrun, Partial, Reason, Response, Stage, Timing


class Caller(Protocol):
    """Who waits for one instruction in particular: the client of an action.

    Both are called from any thread, and return at once.
    """

    def progress(self, partial: msg.Partial) -> None:
        """The response has come this far."""

    def ended(self, outcome: msg.Response | msg.Overrun) -> None:
        """The instruction has had its terminal outcome."""


@dataclass(frozen=True)
class JobContext:
    """What travels with a job through the runtime, to the messages about it: ``Job.context``.

    Attributes:
        header: the instruction's, with the stamp of its release.
        caller: None for an instruction that came by topic.
    """

    header: Header
    caller: Caller | None = None


def context_of(job: Job) -> JobContext:
    """Its context; for jobs of the node."""
    return cast(JobContext, job.context)


FINISH_REASONS = {
    FinishReason.EOS: msg.Response.EOS,
    FinishReason.LENGTH: msg.Response.LENGTH,
    FinishReason.STOP: msg.Response.STOP,
    FinishReason.DEADLINE: msg.Response.DEADLINE,
    FinishReason.FALLBACK: msg.Response.FALLBACK,
}
REASONS = {
    Reason.KILLED: msg.Overrun.KILLED,
    Reason.LATE: msg.Overrun.LATE,
    Reason.SKIPPED: msg.Overrun.SKIPPED,
    Reason.EXPIRED: msg.Overrun.EXPIRED,
    Reason.REJECTED: msg.Overrun.REJECTED,
    Reason.CANCELED: msg.Overrun.CANCELED,
    Reason.FAILED: msg.Overrun.FAILED,
}
STAGES = {
    Stage.QUEUED: msg.Overrun.QUEUED,
    Stage.PREFILL: msg.Overrun.PREFILL,
    Stage.DECODE: msg.Overrun.DECODE,
}


_UNKNOWN = -1.0

# What fits the 32 bits of a message's seconds: 68 years either way.
_SHORTEST_NS, _LONGEST_NS = -(2**31) * NS_PER_S, 2**31 * NS_PER_S - 1


def duration_msg(duration_s: float) -> DurationMsg:
    """A duration in seconds, negative ones included, to the nanosecond; 68 years at most."""
    sec, nanosec = _seconds_and_rest(round(duration_s * NS_PER_S))
    return DurationMsg(sec=sec, nanosec=nanosec)


def nanoseconds(moment: DurationMsg | TimeMsg) -> int:
    """A duration or an instant, ns."""
    return int(moment.sec * NS_PER_S + moment.nanosec)


def time_msg(instant_ns: int) -> TimeMsg:
    """An instant in ns as a message, which ends in 2038."""
    sec, nanosec = _seconds_and_rest(instant_ns)
    return TimeMsg(sec=sec, nanosec=nanosec)


def _seconds_and_rest(ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds, the nearest that a message can carry."""
    return divmod(min(max(ns, _SHORTEST_NS), _LONGEST_NS), NS_PER_S)


def job_from(
    message: msg.Instruction,
    *,
    id: str,
    received: Reception,
    default_budget: float,
    caller: Caller | None = None,
) -> Job:
    """The job that an instruction asks for.

    Its context is the caller, and the instruction's header with a stamp.

    ROS time becomes the server's here and nowhere else: a zero stamp is the moment of reception,
    an absolute deadline wins over a budget, and a zero budget is the default one.

    Args:
        message: as it arrived.
        id: the message's own, or the one that the node made where that is empty.
        received: the moment of its arrival.
        default_budget: s, where the message sets neither budget nor deadline.
        caller: who waits for it in particular.
    """
    stamp_ns = nanoseconds(message.header.stamp) or received.stamps_ns
    budget_ns = nanoseconds(message.budget) or round(default_budget * NS_PER_S)
    absolute_ns = nanoseconds(message.deadline)
    header = Header(stamp=time_msg(stamp_ns), frame_id=message.header.frame_id)
    return Job(
        id=id,
        conversation=conversation_of(message),
        release_ns=received.on_clock(stamp_ns),
        deadline_ns=received.on_clock(absolute_ns or stamp_ns + budget_ns),
        deadline_field="deadline" if absolute_ns else "budget",
        max_tokens=message.max_tokens or None,
        response_schema=message.response_schema,
        context=JobContext(header, caller),
        sampling=sampling_of(message),
        fallback_text=message.fallback_text,
    )


def sampling_of(message: msg.Instruction) -> SamplingOverride:
    """What an instruction sets of its sampling: an empty array sets nothing."""
    temperature, top_p, seed = (
        each[0] if len(each) else None
        for each in (message.temperature, message.top_p, message.seed)
    )
    stop = tuple(filter(None, message.stop)) if len(message.stop) else None
    return SamplingOverride(temperature, top_p, seed, stop)


def sampling_fields(sampling: SamplingOverride) -> dict[str, Any]:
    """The fields of an instruction that sets this; the way back of ``sampling_of``."""
    fields = sampling.chosen()
    stop = fields.pop("stop", None)
    fields = {name: [value] for name, value in fields.items()}
    return fields if stop is None else fields | {"stop": list(stop) or [""]}


def conversation_of(message: msg.Instruction) -> Conversation:
    """What the model is asked."""
    turns = tuple(Turn(turn.role, turn.content) for turn in message.messages)
    return Conversation(system=message.system, prompt=message.prompt, turns=turns)


def sendable(text: str) -> str:
    """A text as a ROS string can carry it: NUL, where such a string would end, is U+FFFD."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def response_msg(response: Response) -> msg.Response:
    """The message of a response."""
    return msg.Response(
        header=context_of(response.job).header,
        id=sendable(response.job.id),
        text=sendable(response.text),
        finish_reason=FINISH_REASONS[response.finish_reason],
        late=response.late,
        truncated=response.truncated,
        response_tokens=response.response_tokens,
        plan=plan_msg(response.plan, response.predicted_prefill),
        timing=timing_msg(response.timing),
        engine=response.engine,
    )


def overrun_msg(overrun: Overrun) -> msg.Overrun:
    """The message of an overrun."""
    return msg.Overrun(
        header=context_of(overrun.job).header,
        id=sendable(overrun.job.id),
        reason=REASONS[overrun.reason],
        stage=STAGES[overrun.stage],
        detail=harmless_line(overrun.detail),
        partial_text=sendable(overrun.partial_text),
        response_tokens=overrun.response_tokens,
        plan=plan_msg(overrun.plan, overrun.predicted_prefill),
        timing=timing_msg(overrun.timing),
        engine=overrun.engine,
    )


def partial_msg(partial: Partial) -> msg.Partial:
    """The message of a response under way."""
    return msg.Partial(
        header=context_of(partial.job).header,
        id=sendable(partial.job.id),
        text=sendable(partial.text),
        response_tokens=partial.response_tokens,
        alpha=partial.alpha,
        slack=duration_msg(partial.slack),
    )


def plan_msg(plan: Plan | None, predicted_prefill: float) -> msg.Plan:
    """The message of a plan; all zero but the prefill's estimate where none was made."""
    prefill = duration_msg(predicted_prefill)
    if plan is None:
        return msg.Plan(predicted_prefill=prefill)
    return msg.Plan(
        planner=plan.planner,
        alpha=plan.alpha,
        feasible=plan.feasible,
        prompt_tokens=plan.prompt_tokens,
        kept_tokens=plan.kept_tokens,
        evictions=[msg.Eviction(**eviction._asdict()) for eviction in plan.evictions],
        predicted_tokens=plan.predicted_tokens,
        planned_tokens=plan.planned_tokens,
        predicted_prefill=prefill,
        predicted_time=duration_msg(plan.predicted_time),
        wcet=duration_msg(plan.wcet),
        risk=_UNKNOWN if plan.risk is None else plan.risk,
        time_margin=plan.time_margin,
        score=_UNKNOWN if plan.score is None else plan.score,
        rho=plan.rho,
        expected_score=_UNKNOWN if plan.expected_score is None else plan.expected_score,
        reused_tokens=plan.reused_tokens,
        model=plan.model,
    )


def timing_msg(timing: Timing) -> msg.Timing:
    """The message of a timing."""
    return msg.Timing(**{name: duration_msg(value) for name, value in vars(timing).items()})
