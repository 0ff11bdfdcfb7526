# SPDX-License-Identifier: Apache-2.0
"""An id of others with a terminal's commands and a forged line, wherever it is shown."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rich.console import Console

from test.client.records import ANSWERED
from timebill_ros.cli.ask import GrowingText
from timebill_ros.cli.dashboard import Dashboard
from timebill_ros.cli.deadline_run import NodeLog
from timebill_ros.client.record import line
from timebill_ros.node.logging_bridge import NodeLogHandler

FORGED = "a\x1b[2J\n[FATAL] forged\r\u202e\x9b1m"
# What ends a line or commands a terminal: all of C0 and C1, separators, turns of direction.
HARMFUL = {"\x1b", "\r", "\x9b", "\u202e"}


def table() -> str:
    return line(replace(ANSWERED, id=FORGED))


def outcome_of_top() -> str:
    dashboard = Dashboard("/llm")
    dashboard.add(replace(ANSWERED, id=FORGED))
    return drawn(dashboard)


def diagnostics_of_top() -> str:
    dashboard = Dashboard("/llm")
    status = DiagnosticStatus(
        level=b"\x09",
        name="llm: prediction",
        message=FORGED,
        hardware_id=FORGED,
        values=[KeyValue(key=f"error {FORGED}", value=FORGED)],
    )
    dashboard.take(DiagnosticArray(status=[status]))
    return drawn(dashboard)


def drawn(dashboard: Dashboard) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(dashboard.render())
    return console.file.getvalue()


def log() -> str:
    told: list[str] = []
    keep = SimpleNamespace(**dict.fromkeys(("error", "info", "warning"), told.append))
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s failed", (FORGED,), None)
    NodeLogHandler(keep).emit(record)
    [text] = told
    return text


@pytest.mark.parametrize("shown", [table, outcome_of_top, diagnostics_of_top, log])
def test_a_forged_id_neither_ends_a_line_nor_commands_a_terminal(shown: Callable[[], str]) -> None:
    text = shown()
    assert r"a\x1b[2J\n[FATAL] forged\r" in text
    assert not HARMFUL & set(text)
    assert not any(row.startswith("[FATAL]") for row in text.splitlines())


@pytest.mark.parametrize("show", [GrowingText().end, NodeLog().add])
def test_a_forged_text_commands_no_terminal(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show(FORGED)
    assert not HARMFUL & set(capsys.readouterr().out)
