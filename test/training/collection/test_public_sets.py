# SPDX-License-Identifier: Apache-2.0
"""Public sets, from tiny local files in their schemas: no hub is asked."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from timebill_ros.engine.request import Conversation
from timebill_ros.training.collection.prompts import (
    ARCHIVES,
    SourceUnavailable,
    UnknownSchema,
    read_public_set,
    read_templates,
)

pytest.importorskip("datasets", reason="datasets is not installed (requirements/train.txt)")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def arena(*turns: str) -> dict[str, object]:
    roles = ("user", "assistant")
    said = [{"content": text, "role": roles[i % 2]} for i, text in enumerate(turns)]
    columns = {"question_id": "q", "model_a": "a", "model_b": "b", "winner": "tie", "turn": 1}
    return {**columns, "conversation_a": said, "conversation_b": said, "language": "English"}


def longbench(context: str, question: str, task: str = "qasper") -> dict[str, object]:
    columns = {"answers": ["x"], "length": 3, "language": "en", "all_classes": None, "_id": "0"}
    return {"input": question, "context": context, "dataset": task, **columns}


def test_arena_asks_what_the_user_said_first(write_lines: Callable[..., Path]) -> None:
    path = write_lines(arena("why?", "because", "really?"), arena("how?", "so"))
    prompts = list(read_public_set(str(path)))
    assert [p.conversation for p in prompts] == [Conversation("", "why?"), Conversation("", "how?")]
    assert prompts[1].source == f"{path}, row 2"


def test_a_folder_is_read_by_its_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{split}.jsonl").write_text(json.dumps(arena(f"{split}?", "so")))
    (prompt,) = read_public_set(str(tmp_path / "set"), split="test")
    assert prompt.conversation.prompt == "test?"


def test_longbench_is_worded_by_its_templates(
    write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_lines(longbench("{a} text", "what {context}?"), longbench("report", "", "other"))
    plain = [prompt.conversation.prompt for prompt in read_public_set(str(path))]
    assert plain == ["{a} text\n\nwhat {context}?", "report"]
    (tmp_path / "words.json").write_text('{"qasper": "Read {context} and answer {input} now."}')
    templates = read_templates(tmp_path / "words.json")
    worded = [p.conversation.prompt for p in read_public_set(str(path), templates=templates)]
    assert worded == ["Read {a} text and answer what {context}? now.", "report"]


def test_longbench_comes_out_of_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for task in ("qasper", "lcc"):
            row = json.dumps(longbench(f"of {task}", "what?", task))
            archive.writestr(f"data/{task}.jsonl", row + "\n")
    remote = ARCHIVES["THUDM/LongBench"]
    local = remote.replace("hf://datasets/THUDM/LongBench/data.zip", str(tmp_path / "data.zip"))
    assert local != remote
    monkeypatch.setitem(ARCHIVES, "THUDM/LongBench", local)
    prompts = list(read_public_set("THUDM/LongBench", subsets=["lcc", "qasper"]))
    assert [p.source for p in prompts] == [
        "THUDM/LongBench lcc, row 1",
        "THUDM/LongBench qasper, row 1",
    ]
    with pytest.raises(SourceUnavailable, match="name one or more"):
        list(read_public_set("THUDM/LongBench"))


def test_an_unknown_schema_names_the_columns(write_lines: Callable[..., Path]) -> None:
    path = write_lines({"question": "why?", "label": 1})
    with pytest.raises(UnknownSchema, match=r"has the columns label, question; known are .*winner"):
        list(read_public_set(str(path)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{{{")
    with pytest.raises(SourceUnavailable, match=r"broken\.jsonl"):
        list(read_public_set(str(tmp_path / "broken.jsonl")))


def test_a_set_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceUnavailable, match="nobody/nothing"):
        list(read_public_set("nobody/nothing"))


@pytest.mark.parametrize("text", ["", "[]", '{"qasper": "no place"}', '{"qasper": 3}'])
def test_unusable_templates_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(SourceUnavailable, match=r"words\.json"):
        read_templates(tmp_path / "words.json")
