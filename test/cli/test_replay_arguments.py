# SPDX-License-Identifier: Apache-2.0
"""What `replay` refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.replay.recordings import answer, recorded, write
from timebill_ros.cli.replay import main


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--rate", "-1"], "a rate is above 0"),
        (["--rate", "fast"], "invalid rate value: 'fast'"),
        (["--expect", "speed>=1"], "no figure speed"),
        (["--simulate", "--time-model", "/nowhere.json"], "/nowhere.json: no time model can"),
        (["--simulate", "-p", "planner:=best"], "planner"),
        (["--simulate", "-p", "planer:=fixed"], "-p planer:=fixed: the node has no such parameter"),
        (["--start", "-p", "llm:risc:=0.1"], "-p llm:risc:=0.1: the node has no such parameter"),
        (["--simulate", "-p", "pessimism:=0.5"], "pessimism"),
        (["--simulate", "--params", "/nowhere.yaml"], "/nowhere.yaml: there is no such file"),
        (["--simulate", "-p", "profile_cache:=/nowhere"], "no profile of the model 'embedded'"),
        (["--time-model", "x.json"], "--time-model is for --simulate"),
        (["--simulate", "--start"], "--start does not go with --simulate"),
        (["--simulate", "--wait", "3"], "--wait does not go with --simulate"),
        (["--simulate", "--patience", "3"], "--patience does not go with --simulate"),
        (["--start", "--node", "x"], "--node names a node that runs already"),
        (["--budget", "1"], "are for traces"),
        (["--topic", "/other"], "no timebill_ros/msg/Instruction at /other"),
    ],
)
def test_bad_arguments_are_named_with_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0)], [answer("a")])
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main([str(bag), *arguments]))
    assert caught.value.code == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "a trace has no deadlines"),
        (["--budget", "1", "--topic", "/x"], "--topic is for bags"),
        (["--budget", "1", "--by-stamp"], "--by-stamp is for bags"),
        (["--simulate", "--budget", "1", "--lengths", "x"], "--lengths is for bags"),
    ],
)
def test_bad_arguments_of_a_trace_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["trace.csv", *arguments])
    assert caught.value.code == 2
    assert fault in capsys.readouterr().err


def test_an_existing_recording_is_told_before_a_node_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0)], [answer("a")])
    (tmp_path / "out" / "bag").mkdir(parents=True)
    assert main([str(bag), "--start", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "bag: exists already" in told
    assert "node |" not in told
