# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from timebill_ros.bench.cases import BadWorkload, digest, embedded_cases, last_number, read_cases

LINE = {"id": "a", "prompt": "How many?", "reference": "There are 2.", "metric": "last_number"}


def written(path: Path, *lines: object) -> Path:
    file = path / "prompts.jsonl"
    file.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return file


def test_a_file_of_prompts_with_references(tmp_path: Path) -> None:
    path = written(tmp_path, LINE, {**LINE, "id": "b", "system": "Count.", "metric": "f1"})
    first, second = read_cases(path)
    assert first.conversation.texts == ("How many?",)
    assert second.conversation.texts == ("Count.", "How many?")
    assert first.score("It is 1, no: 2") == 100.0
    assert 0.0 < second.score("There are 3.") < 100.0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "prompts.jsonl:2: no JSON"),
        ("[]", "prompts.jsonl:2: no JSON object"),
        ({**LINE, "id": "a"}, "id 'a' occurs twice"),
        ({**LINE, "id": "b", "reference": " "}, "2: 'reference' is empty"),
        ({**LINE, "id": "b", "reference": []}, "2: 'reference' is empty"),
        ({"id": "b", "prompt": "x", "metric": "f1"}, "2: 'reference' must be a text"),
        ({**LINE, "id": "b", "reference": ["x", 3]}, "2: 'reference' must be a text, or a list"),
        ({**LINE, "id": "b", "metric": "taste"}, "2: 'metric' must be one of f1, rouge_l"),
        ({**LINE, "id": "b", "prompt": 3}, "2: 'prompt' must be a text"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(BadWorkload, match=reason):
        read_cases(written(tmp_path, LINE, line))


def test_free_text_is_left_out_and_the_nearest_reference_counts(tmp_path: Path) -> None:
    free = {"id": "b", "prompt": "Tell a story.", "reference": "", "metric": ""}
    several = {**LINE, "id": "c", "reference": ["It is 3.", "It is 2."]}
    cases = read_cases(written(tmp_path, LINE, free, several))
    assert [case.id for case in cases] == ["a", "c"]
    assert [cases[1].score(answer) for answer in ("2", "3", "4")] == [100.0, 100.0, 0.0]
    with pytest.raises(BadWorkload, match="holds no prompts that can be scored"):
        read_cases(written(tmp_path, free))


def test_no_prompts_no_workload(tmp_path: Path) -> None:
    with pytest.raises(BadWorkload, match="holds no prompts"):
        read_cases(written(tmp_path, ""))
    with pytest.raises(BadWorkload, match=r"none\.jsonl"):
        read_cases(tmp_path / "none.jsonl")


def test_the_embedded_workload_is_the_same_each_time_and_another_by_seed() -> None:
    cases = embedded_cases(4, [0, 1], (512, 1024))
    assert len({case.id for case in cases}) == len(cases) == 8
    assert digest(cases) == digest(embedded_cases(4, [0, 1], (512, 1024)))
    assert digest(cases) != digest(embedded_cases(4, [0, 2], (512, 1024)))
    assert all(case.score(case.references[0]) == 100.0 for case in cases)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("so 1,234.", 1.0), ("1234.0 in all", 1.0), ("1234 or 5", 0.0), ("none", 0.0), ("-1234", 0.0)],
)
def test_the_last_number_counts(answer: str, right: float) -> None:
    assert last_number(answer, "#### 1234") == right
