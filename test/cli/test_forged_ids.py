# SPDX-License-Identifier: Apache-2.0
"""A text of others with a terminal's commands and a forged line, wherever it is shown."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message
from rich.console import Console
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import String

import timebill_ros
from test.client.records import ANSWERED
from timebill_ros.cli import import_gguf, profile, replay
from timebill_ros.cli.ask import GrowingText
from timebill_ros.cli.deadline_run import NodeLog
from timebill_ros.cli.top import Dashboard
from timebill_ros.client.record import line
from timebill_ros.node.llm_node import NodeLogHandler
from timebill_ros.runtime.harmless import log_to_stderr

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


def bag_of_others(folder: Path) -> list[str]:
    """A bag without instructions, whose topic is named so."""
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(folder / "bag", version=9) as bag:
        topic = bag.add_connection(FORGED, "std_msgs/msg/String", typestore=store)
        bag.write(topic, 1, serialize_message(String(data=FORGED)))
    return [str(folder / "bag")]


def gguf_of_others(folder: Path) -> list[str]:
    """A file of an architecture of this name."""
    file = folder / "model.gguf"
    writer = gguf.GGUFWriter(file, FORGED)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [str(file), str(folder / "out")]


def model_of_others(folder: Path) -> list[str]:
    """A folder of this name without a model."""
    (folder / FORGED).mkdir()
    return ["--model", str(folder / FORGED)]


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (replay.main, bag_of_others),
        (import_gguf.main, gguf_of_others),
        (profile.main, model_of_others),
    ],
)
def test_a_file_of_others_forges_no_line_of_a_command(
    command: Callable[[list[str]], int],
    given: Callable[[Path], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(given(tmp_path)) != 0
    told = capsys.readouterr().err
    assert r"a\x1b[2J\n[FATAL] forged\r" in told
    assert not HARMFUL & set(told)
    assert not any(row.startswith("[FATAL]") for row in told.splitlines())


def test_a_command_s_own_log_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    log_to_stderr()
    [handler] = root.handlers
    told = handler.format(logging.LogRecord("x", logging.INFO, "x", 1, "%s", (FORGED,), None))
    assert not HARMFUL & set(told)
    assert "\n" not in told


def unguarded(tree: ast.Module) -> Iterator[int]:
    """Lines that show what was raised without making it harmless.

    Python's own loggers are left out: their handlers do it.
    """
    for handler in ast.walk(tree):
        if not (isinstance(handler, ast.ExceptHandler) and handler.name):
            continue
        for call in ast.walk(handler):
            shows = isinstance(call, ast.Call) and ast.unparse(call.func) in (
                "print",
                "parser.error",
                "self.get_logger().error",
                "self.get_logger().warning",
            )
            if shows and handler.name in shown_names(call):
                yield call.lineno


def shown_names(node: ast.AST) -> set[str]:
    """The names in an expression that no call of ``harmless_line`` or ``_text`` holds."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("harmless_"):
        return set()
    if isinstance(node, ast.Name):
        return {node.id}
    return set().union(*map(shown_names, ast.iter_child_nodes(node)))


def test_whatever_is_raised_is_shown_harmless() -> None:
    package = Path(timebill_ros.__file__).parent
    found = {
        f"{path.relative_to(package)}:{line}"
        for path in package.rglob("*.py")
        for line in unguarded(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()
