# SPDX-License-Identifier: Apache-2.0
"""The command `timebill_ros NAME`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from timebill_ros.__main__ import main

SOURCE_TREE = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [(["--help"], 0, "llm_node"), (["nonsense"], 2, "no executable 'nonsense'")],
)
def test_the_command_names_its_executables(arguments: list[str], status: int, text: str) -> None:
    command = [sys.executable, "-m", "timebill_ros", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert text in done.stdout + done.stderr


def test_a_source_folder_says_that_it_has_no_messages(tmp_path: Path) -> None:
    generated = shutil.ignore_patterns("msg", "action", "srv", "*.so", "__pycache__", "embedded")
    shutil.copytree(SOURCE_TREE / "timebill_ros", tmp_path / "timebill_ros", ignore=generated)
    command = [sys.executable, "-m", "timebill_ros", "ask", "--help"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 1
    assert "a source folder without messages: python -P" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "timebill_ros.cli.top", raising=False)
    monkeypatch.setattr(sys, "argv", ["timebill_ros", "top", "--once"])
    assert main() == 1
    assert f"rich is not installed for {sys.executable}" in capsys.readouterr().err
