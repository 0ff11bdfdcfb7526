# SPDX-License-Identifier: Apache-2.0
"""A folder laid out as LongBench's, and the paper's set-up on stand-ins."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from timebill_ros.bench import command
from timebill_ros.bench.cases import METRICS, BadWorkload
from timebill_ros.bench.longbench import is_longbench, read_longbench

PROMPTS = {
    "qasper": "Article: {context}\n\nQuestion: {input}\n\nAnswer:",
    "lcc": "Complete the code.\n{context}Next line of code:\n",
    "passage_count": "{context}\n\nHow many? {input}",
}
CAPS = {"qasper": 24, "lcc": 12, "passage_count": 8}
LINE = {"input": "What is {context}?", "context": "A long text. " * 80, "answers": ["a text"]}


def laid_out(folder: Path, **lines: list[object]) -> Path:
    for name, table in (("dataset2prompt", PROMPTS), ("dataset2maxlen", CAPS)):
        path = folder / "config" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(table))
    (folder / "data").mkdir()
    for name, content in lines.items():
        text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in content)
        (folder / "data" / f"{name}.jsonl").write_text(text)
    return folder


def test_prompts_caps_and_metrics_by_data_set(tmp_path: Path) -> None:
    two = {**LINE, "answers": ["", "b text", "a text"]}
    folder = laid_out(tmp_path, qasper=[LINE, two], lcc=[LINE], vcsum=[LINE], trec=["no JSON"])
    assert is_longbench(folder)
    cases = {case.id: case for case in read_longbench(folder)}
    assert list(cases) == ["lcc-1", "qasper-1", "qasper-2"]
    # What looks like a field in a text stays text.
    assert cases["qasper-1"].prompt.endswith("Question: What is {context}?\n\nAnswer:")
    assert "Article: A long text." in cases["qasper-1"].prompt
    assert (cases["qasper-1"].max_tokens, cases["lcc-1"].max_tokens) == (24, 12)
    assert cases["qasper-2"].references == ("b text", "a text")
    assert cases["qasper-2"].score("A text!") == 100.0


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "score"),
    [
        ("number_share", "Paragraph 12, not 3", "Paragraph 12", 0.5),
        ("number_share", "none", "12", 0.0),
        ("number_share", "12", "none", 0.0),
        ("code_line", "```\n# set it\nx = 1\ny = 2", "x = 1", 1.0),
        ("code_line", "```", "x = 1", 0.0),
        ("f1_first_line", "\nParis\nQuestion: next", "paris", 1.0),
        ("rouge_l_first_line", "a b c\nmore words", "a b c", 1.0),
    ],
)
def test_the_metrics_of_other_data_sets(
    metric: str, answer: str, reference: str, score: float
) -> None:
    assert METRICS[metric](answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({"qasper": ["{"]}, r"qasper.jsonl:1: no JSON"),
        ({"qasper": ["[" * 100_000]}, r"qasper.jsonl:1: no JSON"),
        ({"qasper": [[1]]}, "1: no JSON object"),
        ({"qasper": [LINE, {**LINE, "input": 3}]}, "2: 'input' must be a text"),
        ({"qasper": [{**LINE, "answers": "a"}]}, "1: 'answers' must be a list of texts"),
        ({"qasper": [{**LINE, "answers": [" "]}]}, "1: 'answers' is empty"),
        ({"hotpotqa": [LINE]}, "dataset2prompt.json: 'hotpotqa' is missing"),
        ({"vcsum": [LINE]}, "holds no data set that can be scored"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, lines: dict[str, list[object]], reason: str
) -> None:
    with pytest.raises(BadWorkload, match=reason):
        read_longbench(laid_out(tmp_path, **lines))


def test_a_cap_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, qasper=[LINE])
    (folder / "config" / "dataset2maxlen.json").write_text('{"qasper": 0}')
    with pytest.raises(BadWorkload, match="must be from 1 to"):
        read_longbench(folder)


def test_the_paper_s_set_up_on_stand_ins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {**LINE, "context": "A long text that goes on. " * 400}
    folder = laid_out(tmp_path, qasper=[LINE, long], lcc=[LINE])
    times = tmp_path / "times.json"
    times.write_text(json.dumps({"a": 0.0, "b": 1e-3, "c": 0.0, "p": 1e-4, "q": 0.2}))
    stand_ins = (
        *("--model", "embedded", "--device", "cpu", "--workload", str(folder)),
        *("--cut-middle", "300", "--max-context", "640", "--time-model", str(times)),
        *("--profile-seconds", "1", "--profile-cache", str(tmp_path / "cache")),
    )
    out = tmp_path / "run"
    assert command.main(["--preset", "paper", "--out", str(out), *stand_ins]) == 0
    assert "| 5 s | 6 s | 7 s | 8 s | 9 s | 10 s |" in capsys.readouterr().out
    with (out / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"qasper-1", "qasper-2", "lcc-1"}
    assert {row["method"] for row in rows} >= {"vanilla", "fixed-0.95", "timebill-k5"}
    # The middle is gone, template and all fit what is left.
    assert max(int(row["given_tokens"]) for row in rows) <= 320
    for row in rows:
        assert int(row["response_tokens"]) <= CAPS[row["case"].split("-")[0]]
        assert int(row["planned_tokens"]) <= CAPS[row["case"].split("-")[0]]
    assert (out / "pessimism.png").exists()
