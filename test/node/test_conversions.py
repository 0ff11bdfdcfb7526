# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from builtin_interfaces.msg import Duration, Time
from std_msgs.msg import Header

from timebill_ros import msg
from timebill_ros.budget.plan import Eviction, Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import NOTHING_SET, Conversation, SamplingOverride, Turn
from timebill_ros.node.conversions import (
    FINISH_REASONS,
    REASONS,
    STAGES,
    JobContext,
    duration_msg,
    job_from,
    nanoseconds,
    overrun_msg,
    response_msg,
    sampling_fields,
    time_msg,
)
from timebill_ros.runtime.admission import Reception
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Overrun, Reason, Response, Stage, Timing

HEADER = Header(stamp=Time(sec=7, nanosec=5), frame_id="base_link")
JOB = Job("a", Conversation("", "stop"), 0, 10, context=JobContext(HEADER))
EVICTED = (Eviction(1, 750),)
PLAN = Plan(
    "timebill",
    0.25,
    True,
    1000,
    EVICTED,
    32,
    160,
    0.25,
    0.75,
    0.05,
    0.125,
    97.5,
    0.5,
    90.0,
    reused_tokens=600,
    model="small",
)


@pytest.mark.parametrize(
    ("seconds", "parts"),
    [(0.0, (0, 0)), (1.5, (1, 500_000_000)), (-0.25, (-1, 750_000_000)), (-2.0, (-2, 0))],
)
def test_durations_keep_their_sign_to_the_nanosecond(
    seconds: float, parts: tuple[int, int]
) -> None:
    message = duration_msg(seconds)
    assert (message.sec, message.nanosec) == parts
    assert nanoseconds(message) == round(seconds * 1e9)


def test_what_does_not_fit_a_message_is_the_nearest_that_does() -> None:
    assert duration_msg(-4e9) == Duration(sec=-(2**31), nanosec=0)
    assert duration_msg(4e9) == Duration(sec=2**31 - 1, nanosec=999_999_999)
    assert time_msg(2**31 * 10**9).sec == 2**31 - 1


# Received at 8 s of ROS time, 3 s of the server's clock.
RECEIVED = Reception(8_000_000_000, 3_000_000_000)
BEHIND_NS = RECEIVED.stamps_ns - RECEIVED.clock_ns


def job_of(message: msg.Instruction) -> Job:
    return job_from(message, id="llm-1", received=RECEIVED, default_budget=2.0)


def test_an_instruction_s_fields_are_taken_over() -> None:
    message = msg.Instruction(
        header=HEADER,
        id="a",
        system="scene",
        prompt="stop",
        budget=Duration(sec=1, nanosec=250_000_000),
        deadline=Time(sec=9, nanosec=1),
        max_tokens=12,
        messages=[msg.ChatMessage(role="user", content="go")],
    )
    job = job_of(message)
    assert job.conversation == Conversation("scene", "stop", (Turn("user", "go"),))
    assert job.max_tokens == 12
    assert job.release_ns == 7_000_000_005 - BEHIND_NS
    assert job.deadline_ns == 9_000_000_001 - BEHIND_NS
    assert job.deadline_field == "deadline"
    assert job.context == JobContext(HEADER)


def test_a_budget_counts_from_the_stamp() -> None:
    job = job_of(msg.Instruction(header=HEADER, budget=Duration(sec=1, nanosec=250_000_000)))
    assert job.deadline_ns == 8_250_000_005 - BEHIND_NS
    assert job.deadline_field == "budget"
    late = job_of(msg.Instruction(header=HEADER, budget=Duration(sec=-1)))
    assert late.deadline_ns == 6_000_000_005 - BEHIND_NS


def test_without_a_budget_the_default_counts_and_without_a_cap_the_server_s() -> None:
    job = job_of(msg.Instruction(header=HEADER))
    assert job.deadline_ns == 9_000_000_005 - BEHIND_NS
    assert job.max_tokens is None


def test_an_instruction_without_a_stamp_is_released_on_reception() -> None:
    message = msg.Instruction(header=Header(frame_id="map"))
    job = job_of(message)
    assert job.release_ns == RECEIVED.clock_ns
    assert job.context == JobContext(Header(stamp=Time(sec=8, nanosec=0), frame_id="map"))
    assert job.id == "llm-1"


@pytest.mark.parametrize("finish", list(FinishReason))
def test_only_what_the_deadline_ended_is_truncated(finish: FinishReason) -> None:
    message = response_msg(Response(JOB, "do", finish, False, 20, PLAN, 0.125, Timing()))
    assert message.finish_reason == getattr(msg.Response, finish.name)
    assert message.truncated == (finish is FinishReason.DEADLINE)


def test_the_schema_comes_along() -> None:
    message = msg.Instruction(prompt="stop", response_schema='{"type": "integer"}')
    assert job_of(message).response_schema == '{"type": "integer"}'


@pytest.mark.parametrize(
    "sampling",
    [
        NOTHING_SET,
        SamplingOverride(temperature=0.0, seed=0),
        SamplingOverride(0.75, 0.875, 2**31 - 1, ("END", "\n")),
        SamplingOverride(stop=()),
    ],
)
def test_sampling_comes_along_and_what_is_empty_is_unset(sampling: SamplingOverride) -> None:
    assert job_of(msg.Instruction(prompt="stop", **sampling_fields(sampling))).sampling == sampling


def test_an_instruction_sets_nothing_of_its_sampling_by_itself() -> None:
    assert job_of(msg.Instruction(prompt="stop")).sampling == NOTHING_SET


def test_a_nul_is_marked_where_a_string_would_end() -> None:
    answer = Response(JOB, "do\0not", FinishReason.EOS, False, 20, PLAN, 0.125, Timing())
    assert response_msg(answer).text == "do\ufffdnot"
    killed = Overrun(JOB, Reason.KILLED, Stage.DECODE, "a\0b", Timing(), "c\0d")
    assert overrun_msg(killed).detail == r"a\x00b"
    assert overrun_msg(killed).partial_text == "c\ufffdd"


def test_a_response_carries_predicted_beside_actual() -> None:
    timing = Timing(0.01, 0.02, 0.03, 0.04, 0.05, 0.15, -0.05)
    message = response_msg(Response(JOB, "done", FinishReason.STOP, True, 20, PLAN, 0.125, timing))
    assert message.header == HEADER
    assert (message.id, message.text, message.late) == ("a", "done", True)
    assert (message.finish_reason, message.response_tokens) == (msg.Response.STOP, 20)
    assert (message.plan.planner, message.plan.alpha, message.plan.feasible) == (
        "timebill",
        0.25,
        True,
    )
    assert (message.plan.prompt_tokens, message.plan.kept_tokens) == (1000, 750)
    assert [(e.at_token, e.kept_tokens) for e in message.plan.evictions] == [(1, 750)]
    assert (message.plan.predicted_tokens, message.plan.planned_tokens) == (32, 160)
    assert message.plan.predicted_prefill == duration_msg(0.125)
    assert message.plan.predicted_time == duration_msg(0.25)
    assert message.plan.wcet == duration_msg(0.75)
    assert message.plan.risk == 0.05
    assert message.plan.time_margin == 0.125
    assert message.plan.score == 97.5
    assert (message.plan.rho, message.plan.expected_score) == (0.5, 90.0)
    assert message.plan.reused_tokens == 600
    assert message.plan.model == "small"
    assert message.timing.queued == duration_msg(0.01)
    assert message.timing.predict == duration_msg(0.02)
    assert message.timing.prefill == duration_msg(0.03)
    assert message.timing.evict == duration_msg(0.04)
    assert message.timing.decode == duration_msg(0.05)
    assert message.timing.total == duration_msg(0.15)
    assert message.timing.slack == duration_msg(-0.05)


def test_an_overrun_without_a_plan_says_so() -> None:
    message = overrun_msg(Overrun(JOB, Reason.EXPIRED, Stage.QUEUED, "deadline: passed", Timing()))
    assert message.header == HEADER
    assert (message.reason, message.stage) == (msg.Overrun.EXPIRED, msg.Overrun.QUEUED)
    assert message.detail == "deadline: passed"
    assert message.plan == msg.Plan()


def test_an_overrun_in_decoding_carries_what_there_was() -> None:
    message = overrun_msg(
        Overrun(JOB, Reason.KILLED, Stage.DECODE, "late", Timing(), "part", 5, PLAN, 0.125)
    )
    assert (message.partial_text, message.response_tokens) == ("part", 5)
    assert message.plan.alpha == 0.25


def test_a_risk_or_score_that_is_not_known_is_minus_one() -> None:
    plan = replace(PLAN, risk=None, score=None, expected_score=None)
    message = overrun_msg(Overrun(JOB, Reason.KILLED, Stage.DECODE, "late", Timing(), "", 5, plan))
    assert message.plan.risk == msg.Plan().risk == -1.0
    assert message.plan.score == msg.Plan().score == -1.0
    assert message.plan.expected_score == msg.Plan().expected_score == -1.0


@pytest.mark.parametrize(
    ("table", "enum"), [(FINISH_REASONS, FinishReason), (REASONS, Reason), (STAGES, Stage)]
)
def test_every_member_has_a_constant_of_its_own_that_is_not_the_unset_zero(
    table: dict, enum: type
) -> None:
    assert set(table) == set(enum)
    assert len(set(table.values())) == len(table)
    assert 0 not in table.values()


def test_a_detail_is_one_harmless_line() -> None:
    failed = Overrun(JOB, Reason.FAILED, Stage.DECODE, "a\x1b[2J\n[FATAL] b", Timing())
    assert overrun_msg(failed).detail == r"a\x1b[2J\n[FATAL] b"
