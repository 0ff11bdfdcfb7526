# SPDX-License-Identifier: Apache-2.0
"""Predicted against actual, on outcomes made up for it."""

from __future__ import annotations

from dataclasses import replace

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.health import Level, PredictionHealth, Report
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage, Timing
from timebill_ros.runtime.settings import Settings

JOB = Job("a", Conversation("", "stop"), 0, 10)
PLAN = Plan(
    planner="timebill",
    alpha=0.0,
    feasible=True,
    prompt_tokens=100,
    evictions=(),
    predicted_tokens=30,
    planned_tokens=80,
    predicted_time=0.3,
    wcet=0.5,
)


def answer(tokens: int = 20, took: float = 0.4, prefill: float = 0.2, plan: Plan = PLAN) -> Outcome:
    """A response that waited for 1 s; its prefill was predicted to take 0.1 s."""
    timing = Timing(queued=1.0, prefill=prefill, decode=took - prefill, total=1.0 + took)
    return Response(JOB, "", FinishReason.EOS, False, tokens, plan, 0.1, timing)


def killed(
    tokens: int, took: float, stage: Stage = Stage.DECODE, *, feasible: bool = False
) -> Outcome:
    timing = Timing(prefill=0.1, decode=took - 0.1, total=took)
    plan = replace(PLAN, feasible=feasible)
    return Overrun(JOB, Reason.KILLED, stage, "", timing, "", tokens, plan, 0.1)


def after(*outcomes: Outcome, warn: float = 0.1) -> Report:
    health = PredictionHealth()
    for outcome in outcomes:
        health.add(outcome)
    return health.report(Settings(beyond_plan_warn=warn))


def test_errors_are_relative_to_what_came_in_all() -> None:
    report = after(answer(), answer(tokens=30, took=0.3, prefill=0.1))
    assert report.values["length error"] == "0.200"  # (|30 - 20| + 0) / (20 + 30)
    assert report.values["time error"] == "0.143"  # (|0.3 - 0.4| + 0) / (0.4 + 0.3)
    assert report.values["prefill error"] == "0.333"  # (|0.1 - 0.2| + 0) / (0.2 + 0.1)
    assert report.values["plans"] == "2"
    assert report.level is Level.OK


def test_before_the_first_plan_there_is_nothing_to_compare() -> None:
    never_ran = Overrun(JOB, Reason.EXPIRED, Stage.QUEUED, "", Timing())
    report = after(never_ran)
    assert report.values["length error"] == report.values["time error"] == "-"
    assert report.values["plans"] == "0"
    assert report.values["time margin"] == "-"


def test_the_latest_plan_s_time_margin_is_told() -> None:
    report = after(answer(plan=replace(PLAN, time_margin=0.5)), answer())
    assert report.values["time margin"] == "0.000"
    report = after(answer(), answer(plan=replace(PLAN, time_margin=0.5)))
    assert report.values["time margin"] == "0.500"


def test_the_share_of_the_prompts_that_was_reused_is_told() -> None:
    half = replace(PLAN, reused_tokens=PLAN.prompt_tokens // 2)
    assert after(answer(), answer(plan=half)).values["share of prompts reused"] == "0.250"
    assert after().values["share of prompts reused"] == "-"


def test_a_plan_without_a_prediction_has_no_length_error() -> None:
    report = after(answer(plan=replace(PLAN, predicted_tokens=0)), answer())
    assert report.values["length error"] == "0.500"
    assert report.values["share without prediction"] == "0.500"


def test_longer_answers_than_planned_warn() -> None:
    nine, two = [answer()] * 9, [answer(tokens=81)] * 2
    report = after(*nine, *two)
    assert report.level is Level.WARN
    assert report.message.startswith("18% of the answers were longer than planned")
    assert after(*nine, *two, warn=0.2).level is Level.OK
    assert after(*nine[:7], *two).level is Level.OK  # of nine plans no share is taken
    assert after(*nine, answer(tokens=80), answer(tokens=80)).level is Level.OK


def test_slower_answers_than_the_worst_case_warn() -> None:
    report = after(*[answer()] * 9, *[answer(took=0.501)] * 2)
    assert report.level is Level.WARN
    assert report.message.startswith("18% of the answers took longer than their worst case")
    assert report.values["share beyond wcet"] == "0.182"


def test_an_answer_that_was_killed_tells_what_its_deadline_showed() -> None:
    values = after(killed(81, 0.6), killed(5, 0.4)).values
    assert values["length error"] == values["time error"] == "-"
    assert values["share beyond planned_tokens"] == "0.500"
    assert values["share beyond wcet"] == "0.500"
    assert after(killed(0, 9.0, Stage.PREFILL)).values["plans"] == "0"
    assert after(killed(5, 0.4, feasible=True)).values["share beyond wcet"] == "1.000"


def test_an_answer_that_its_deadline_cut_short_had_no_length_of_its_own() -> None:
    cut = replace(answer(), finish_reason=FinishReason.DEADLINE)
    values = after(cut).values
    assert values["length error"] == values["time error"] == "-"
    assert values["share beyond wcet"] == "1.000"
    infeasible = replace(cut, plan=replace(PLAN, feasible=False))
    assert after(infeasible).values["share beyond wcet"] == "0.000"


def test_a_predictor_that_fails_is_told_of_until_it_has_worked_for_a_while() -> None:
    broken = replace(answer(), predictor_fault="ValueError: NaN in the logits")
    report = after(answer(), broken, answer())
    assert report.level is Level.WARN
    assert report.message == (
        "the length predictor failed 1 of 3 times, last with ValueError: NaN in the logits"
    )
    assert report.values["predictor failures"] == "1 of 3"
    assert after(broken, *[answer()] * 100).level is Level.OK
