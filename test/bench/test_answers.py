# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from timebill_ros.bench.answers import RunFile, Stopwatch, answered_case
from timebill_ros.bench.cases import OtherRun

from .made_up import CASES, SELECTION

HEADER = {"environment": {"checkpoint": "abc"}, "workload": "w", "measured": {"a": 1.0}}


def test_a_run_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run" / "answers.jsonl"
    file = RunFile(path, answered_case)
    assert file.open(HEADER) == (HEADER, [])
    file.add(CASES[0])
    # Times that are measured anew do not count: all cases are judged by the first ones.
    header, done = RunFile(path, answered_case).open({**HEADER, "measured": {"a": 2.0}})
    assert header["measured"] == {"a": 1.0}
    assert done == CASES[:1]


def test_what_was_measured_comes_back(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "answers.jsonl", answered_case)
    file.open(HEADER)
    timed = replace(CASES[0], measured=Stopwatch(0.5, 0.25, 10))
    file.add(timed)
    assert file.open(HEADER)[1] == [timed]


def test_answers_of_another_selection_are_left_out() -> None:
    other = replace(CASES[0].answers[2], selection="recent", score=7.0)
    case = replace(
        CASES[0],
        answers=(*CASES[0].answers, other),
        rankings={**CASES[0].rankings, "recent": 1.0},
    )
    assert case.selected_by(SELECTION) == CASES[0]
    recent = case.selected_by("recent")
    assert recent.rankings == {"recent": 1.0}
    assert recent.of_share(0.5) == (other,)
    assert recent.whole == CASES[0].whole


def test_a_line_that_was_cut_off_is_answered_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = RunFile(path, answered_case)
    file.open(HEADER)
    file.add(CASES[0])
    file.add(CASES[1])
    path.write_text(path.read_text()[:-40])
    assert RunFile(path, answered_case).open(HEADER)[1] == CASES[:1]
    file.add(CASES[1])
    assert RunFile(path, answered_case).open(HEADER)[1] == CASES[:2]


def test_another_model_or_workload_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    RunFile(path, answered_case).open(HEADER)
    with pytest.raises(OtherRun, match="workload was 'w' and is 'v'"):
        RunFile(path, answered_case).open({**HEADER, "workload": "v"})
    with pytest.raises(OtherRun, match=r"environment was .*abc.* and is .*xyz"):
        RunFile(path, answered_case).open({**HEADER, "environment": {"checkpoint": "xyz"}})
    newer = {**HEADER, "environment": {"checkpoint": "abc", "timebill_ros": "0.2.0"}}
    with pytest.raises(OtherRun, match=r"environment was .* and is .*0\.2\.0"):
        RunFile(path, answered_case).open(newer)


@pytest.mark.parametrize("content", ["nonsense", "[1]", "3", "{}\n[]", '{}\n{"case": "a"}', ""])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(OtherRun, match=r"holds no answers|is of another run"):
        RunFile(path, answered_case).open(HEADER)


def test_an_eviction_in_between_has_the_answer_of_the_smaller_cache() -> None:
    long = CASES[1]
    assert long.after(1.0, 8000).score == 100.0
    assert long.after(1.0, 7999).kept_tokens == 4000
    assert long.after(1.0, 10).kept_tokens == 4000
    assert long.whole.prompt_tokens == 8000
