# SPDX-License-Identifier: Apache-2.0
"""From messages to a line of the table and a row of the file."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from test.client.records import ALL, ANSWERED, EXPIRED, KILLED_IN_PREFILL, UNPREDICTED
from timebill_ros.client.record import (
    HEADER,
    Ending,
    Record,
    line,
    missing_record,
    record_of_message,
    write_csv,
)
from timebill_ros.msg import Instruction, Overrun, Plan, Response, Timing
from timebill_ros.node.conversions import REASONS, duration_msg

INSTRUCTION = Instruction(id="a", budget=duration_msg(0.5))


def record_of(message: Response | Overrun) -> Record:
    return record_of_message(INSTRUCTION, message, prompt_tokens=99)


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.id)
def test_columns_stand_under_their_headings(record: object) -> None:
    text = line(record)
    last = HEADER.splitlines()[-1]
    assert text.index(record.ending) == last.index("outcome")
    assert all(row[last.index("outcome") - 1] == " " for row in (text, last))
    assert len(text) <= 120


def test_a_line_holds_the_prediction_beside_the_fact() -> None:
    columns = line(ANSWERED).split()
    assert columns[:7] == ["t04", "3005", "0.512", "96", "97", "1.00", "0.42"]
    assert columns[7:] == ["0.371", "0.353", "+0.135", "in", "time"]
    assert line(UNPREDICTED).split()[3:7] == ["-", "97", "1.00", "0.00"]


def test_an_answer_that_was_cut_short_is_told_apart() -> None:
    assert line(ANSWERED).endswith("in time")
    assert line(replace(ANSWERED, truncated=True)).endswith("truncated")


def test_what_there_is_not_is_a_dash() -> None:
    assert line(EXPIRED).split()[3:] == [*6 * ["-"], "-0.018", "expired"]
    assert line(KILLED_IN_PREFILL).split()[3:] == [*5 * ["-"], "0.900", "-0.398", "killed"]


def test_a_response_becomes_a_record() -> None:
    message = Response(
        id="a",
        text="yes",
        response_tokens=3,
        plan=Plan(
            planner="timebill",
            alpha=0.25,
            prompt_tokens=40,
            wcet=duration_msg(0.4),
            risk=0.05,
            score=97.5,
            rho=0.5,
            expected_score=90.0,
            reused_tokens=24,
            model="small",
        ),
        # Under a clock at rate 3: what it tells is three times as long as the work.
        timing=Timing(
            prefill=duration_msg(0.1), total=duration_msg(0.3), slack=duration_msg(-0.25)
        ),
    )
    message.header.stamp.sec = 7
    record = record_of(message)
    assert record.plan is not None
    assert (record.ending, record.text, record.prompt_tokens) == (Ending.IN_TIME, "yes", 40)
    assert (record.released, record.budget, record.timing.slack) == (7.0, 0.5, -0.25)
    assert (record.plan.alpha, record.plan.wcet) == (0.25, 0.4)
    assert (record.plan.risk, record.plan.score) == (0.05, 97.5)
    assert (record.plan.rho, record.plan.expected_score) == (0.5, 90.0)
    assert record.plan.reused_tokens == 24
    assert record.plan.model == "small"
    assert record.execution == pytest.approx(0.1)


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.value)
def test_every_reason_is_an_ending(reason: object) -> None:
    overrun = Overrun(id="a", reason=REASONS[reason], detail="why", partial_text="so far")
    response = Response(id="a", late=True)
    late = overrun.reason == Overrun.LATE
    record = record_of(response if late else overrun)
    assert record.ending == reason.value
    if not late:
        assert (record.plan, record.prompt_tokens) == (None, 99)
        assert (record.text, record.detail) == ("so far", "why")


def test_an_instruction_that_nothing_was_heard_of_is_missing() -> None:
    record = missing_record(INSTRUCTION)
    assert (record.ending, record.budget, record.plan) == (Ending.MISSING, 0.5, None)
    assert record.detail == "nothing was heard of it"


def test_only_a_deadline_counts_as_missed() -> None:
    missed = {ending for ending in Ending if ending.missed}
    assert missed == {Ending.LATE, Ending.KILLED, Ending.SKIPPED, Ending.EXPIRED}


def test_the_file_has_a_row_per_record(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    write_csv(path, ALL)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [record.id for record in ALL]
    assert float(rows[0]["alpha"]) == 0.42
    assert float(rows[0]["decode"]) == 0.14
    assert rows[1]["alpha"] == ""
    assert rows[1]["outcome"] == "expired"
