# SPDX-License-Identifier: Apache-2.0
"""The demo's own judgement, and the whole demo."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from test.client.records import ANSWERED, EXPIRED, UNPREDICTED
from timebill_ros.cli import demo
from timebill_ros.cli.deadline_run import RunFailed
from timebill_ros.client.node_process import NodeProcess, NodeProcessError
from timebill_ros.client.record import Ending, Record

EVICTED, WHOLE = ANSWERED, UNPREDICTED
SELECTED = replace(WHOLE, plan=replace(WHOLE.plan, rho=0.5)) if WHOLE.plan else WHOLE
FAILED = replace(EXPIRED, id="x", ending=Ending.FAILED, detail="out of memory")


@pytest.mark.parametrize("records", [[EVICTED, WHOLE, EXPIRED], [WHOLE, EXPIRED, SELECTED, WHOLE]])
def test_a_run_with_all_kinds_is_good(records: list[Record]) -> None:
    demo.check(records)


@pytest.mark.parametrize(
    ("records", "missing"),
    [
        ([EVICTED, SELECTED, EXPIRED], "from the whole prompt did not occur"),
        ([WHOLE, EXPIRED], "part of the prompt given up did not occur"),
        ([EVICTED, WHOLE], "an overrun did not occur"),
        ([replace(EVICTED, ending=Ending.KILLED), WHOLE], "part of the prompt given up did not"),
        ([EVICTED, WHOLE, EXPIRED, FAILED], "x was failed: out of memory"),
    ],
)
def test_what_is_missing_or_wrong_is_named(records: list[Record], missing: str) -> None:
    with pytest.raises(RunFailed, match=re.escape(missing)):
        demo.check(records)


def test_a_node_that_does_not_configure_is_told_with_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise NodeProcessError("the node /llm failed to configure; its last lines:\nno such model")

    monkeypatch.setattr(NodeProcess, "__enter__", fail)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "no such model" in capsys.readouterr().err


def test_a_bad_argument_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--policy", "hope"])
    assert "--policy" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["kill", "skip_next", "anytime"])
def test_the_demo_shows_all_kinds_and_leaves_its_files(tmp_path: Path, policy: str) -> None:
    command = [sys.executable, "-P", "-m", "timebill_ros", "demo"]
    arguments = ["--out", str(tmp_path), "--policy", policy]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=600.0, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "demo.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 12
    assert all(row["id"] in done.stdout for row in rows)
    assert (tmp_path / "demo.png").stat().st_size > 0
