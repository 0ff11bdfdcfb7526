# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.bench.answers import AnswerFile, missing
from timebill_ros.bench.cases import OtherRun

from .made_up import CASES

HEADER = {"environment": {"checkpoint": "abc"}, "workload": "w", "measured": {"a": 1.0}}


def test_a_run_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run" / "answers.jsonl"
    file = AnswerFile(path)
    assert file.open(HEADER) == (HEADER, [])
    file.add(CASES[0])
    # Times that are measured anew do not count: all cases are judged by the first ones.
    header, done = AnswerFile(path).open({**HEADER, "measured": {"a": 2.0}})
    assert header["measured"] == {"a": 1.0}
    assert done == CASES[:1]
    assert missing(["short", "long"], done) == ["long"]


def test_a_line_that_was_cut_off_is_answered_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path)
    file.open(HEADER)
    file.add(CASES[0])
    file.add(CASES[1])
    path.write_text(path.read_text()[:-40])
    assert AnswerFile(path).open(HEADER)[1] == CASES[:1]
    file.add(CASES[1])
    assert AnswerFile(path).open(HEADER)[1] == CASES[:2]


def test_another_model_or_workload_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path).open(HEADER)
    with pytest.raises(OtherRun, match="workload was 'w' and is 'v'"):
        AnswerFile(path).open({**HEADER, "workload": "v"})
    with pytest.raises(OtherRun, match=r"environment was .*abc.* and is .*xyz"):
        AnswerFile(path).open({**HEADER, "environment": {"checkpoint": "xyz"}})
    path.write_text("nonsense\n")
    with pytest.raises(OtherRun, match="holds no answers"):
        AnswerFile(path).open(HEADER)


def test_an_eviction_in_between_has_the_answer_of_the_smaller_cache() -> None:
    long = CASES[1]
    assert long.after(1.0, 8000).score == 100.0
    assert long.after(1.0, 7999).kept_tokens == 4000
    assert long.after(1.0, 10).kept_tokens == 4000
    assert long.whole.prompt_tokens == 8000
