# SPDX-License-Identifier: Apache-2.0
"""The tables of a node, from messages that nobody sent."""

from __future__ import annotations

import io
from dataclasses import replace

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rich.console import Console

from test.client.records import ANSWERED, EXPIRED
from timebill_ros.cli.top import Dashboard


def said(node: str = "robot/llm", level: bytes = DiagnosticStatus.OK, **values: str) -> object:
    """What a node says of its deadlines."""
    pairs = [KeyValue(key=key.replace("_", " "), value=value) for key, value in values.items()]
    status = DiagnosticStatus(
        level=level, name=f"{node}: deadlines", message="as [bold]told", values=pairs
    )
    return DiagnosticArray(status=[status])


def drawn(dashboard: Dashboard, silence: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(dashboard.render(silence))
    return console.file.getvalue()


def line(text: str, word: str) -> list[str]:
    """The cells of the one row that has the word."""
    [row] = [row for row in text.splitlines() if word in row]
    return [cell.strip() for cell in row.strip(" │").split("│")]


def test_only_what_the_node_says_of_itself_counts() -> None:
    dashboard = Dashboard("/robot/llm")
    assert not dashboard.take(said("robot2/llm"))
    assert not dashboard.heard
    assert dashboard.take(said())
    assert dashboard.heard


def test_a_status_is_a_row_with_its_level_and_reason_as_they_are() -> None:
    dashboard = Dashboard("/robot/llm")
    values = {"miss_ratio": "0.250", "outcomes:_in_time": "3", "outcomes:_killed": "1"}
    dashboard.take(said(level=DiagnosticStatus.ERROR, **values))
    cells = line(drawn(dashboard), "deadlines")
    assert cells == ["deadlines", "error", "miss ratio 0.250, 3 in time, 1 killed", "as [bold]told"]


def test_outcomes_come_latest_first_with_predicted_beside_actual() -> None:
    dashboard = Dashboard("/llm")
    assert "none since this began to watch" in drawn(dashboard)
    dashboard.add(ANSWERED)
    dashboard.add(EXPIRED)
    text = drawn(dashboard)
    assert line(text, "t04") == [
        "t04",
        "in time",
        "1.00",
        "0.42",
        "96",
        "97",
        "0.371",
        "0.353",
        "+0.135",
    ]
    assert line(text, "h17") == ["h17", "expired", "-", "-", "-", "-", "-", "-", "-0.018"]
    assert text.index("h17") < text.index("t04")


def test_an_answer_that_was_cut_short_is_told_apart() -> None:
    dashboard = Dashboard("/llm")
    dashboard.add(replace(ANSWERED, truncated=True))
    assert line(drawn(dashboard), "t04")[1] == "truncated"


def test_silence_is_told() -> None:
    assert "silent" not in drawn(Dashboard("/llm"))
    assert "/llm  silent for 7 s" in drawn(Dashboard("/llm"), silence=7.2)
