# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from timebill_ros.predictor.errors import BadLine, EmptySet, HeaderUnusable, SettingsDiffer
from timebill_ros.training.predictor.pairs import (
    Pair,
    PairsHeader,
    check_same,
    header_path,
    pair_line,
    read_header,
    read_pairs,
    write_header,
)

HEADER = PairsHeader("some/model", "0123456789abcdef", 100, {"temperature": 0.0, "stop": ["END"]})
PAIRS = [Pair("Größe?\n", 7, 12, "EOS"), Pair("half \ud800", 3, 100, "LENGTH")]


def write(path: Path, *lines: str, header: PairsHeader | None = HEADER) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    if header is not None:
        write_header(path, header)
    return path


def test_pairs_come_back_as_written(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", *map(pair_line, PAIRS))
    assert read_pairs([path]) == (HEADER, PAIRS)


def test_several_files_count_as_one_and_a_prompt_once(tmp_path: Path) -> None:
    first = write(tmp_path / "1.jsonl", pair_line(PAIRS[0]))
    again = Pair(PAIRS[0].prompt, 7, 13, "EOS")
    second = write(tmp_path / "2.jsonl", pair_line(again), pair_line(PAIRS[1]))
    assert read_pairs([first, second])[1] == PAIRS


def test_files_of_different_targets_do_not_mix(tmp_path: Path) -> None:
    first = write(tmp_path / "1.jsonl", pair_line(PAIRS[0]))
    other = PairsHeader("another/model", "fedcba9876543210", 100, HEADER.decoding)
    second = write(tmp_path / "2.jsonl", pair_line(PAIRS[1]), header=other)
    with pytest.raises(SettingsDiffer, match="target") as caught:
        read_pairs([first, second])
    for named in ("2.header.json", "some/model (0123456789abcdef)", "another/model (fedcba"):
        assert named in str(caught.value)


def test_a_target_that_lies_elsewhere_is_the_same(tmp_path: Path) -> None:
    first = write(tmp_path / "1.jsonl", pair_line(PAIRS[0]))
    moved = PairsHeader("elsewhere", HEADER.target, 100, HEADER.decoding)
    second = write(tmp_path / "2.jsonl", pair_line(PAIRS[1]), header=moved)
    assert read_pairs([first, second]) == (HEADER, PAIRS)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmptySet, match=r"pairs\.jsonl: no pairs"):
        read_pairs([write(tmp_path / "pairs.jsonl")])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": None}, "prompt is None, not text"),
        ({"finish_reason": 3}, "finish_reason is 3, not text"),
        ({"prompt_tokens": "7"}, "prompt_tokens is '7', not an integer >= 1"),
        ({"response_tokens": 0}, "response_tokens is 0, not an integer >= 1"),
        ({"response_tokens": True}, "response_tokens is True"),
        ({"response_tokens": 101}, r"101 is beyond longest_response \(N_model\) 100 of .*header"),
    ],
)
def test_a_bad_field_is_named_with_its_line(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    bad = json.dumps({**asdict(PAIRS[0]), **change}) + "\n"
    path = write(tmp_path / "pairs.jsonl", pair_line(PAIRS[0]), bad)
    with pytest.raises(BadLine, match=named) as caught:
        read_pairs([path])
    assert f"{path}, line 2: " in str(caught.value)


@pytest.mark.parametrize(("line", "named"), [("{\n", "not JSON"), ("3\n", "not a JSON object")])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, named: str) -> None:
    with pytest.raises(BadLine, match=f"line 1: {named}"):
        read_pairs([write(tmp_path / "pairs.jsonl", line)])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "it is missing"),
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        (json.dumps({**asdict(HEADER), "longest_response": 0}), "longest_response is 0"),
        (json.dumps({**asdict(HEADER), "decoding": 3}), "decoding is 3"),
        (json.dumps({"target": "x"}), "key 'target_id' is missing"),
    ],
)
def test_an_unusable_header_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    path = write(tmp_path / "pairs.jsonl", pair_line(PAIRS[0]), header=None)
    if text is not None:
        header_path(path).write_text(text)
    with pytest.raises(HeaderUnusable, match=named) as caught:
        read_header(path)
    assert str(header_path(path)) in str(caught.value)


def test_the_first_difference_is_named_inside_of_objects_too() -> None:
    before = {"same": 1, "decoding": {"seed": 0, "top_p": 1.0}}
    check_same(Path("x"), before, {"decoding": {"top_p": 1.0, "seed": 0}, "same": 1})
    with pytest.raises(SettingsDiffer, match="seed 0, but now it is 3") as caught:
        check_same(Path("x"), before, {**before, "decoding": {"seed": 3, "top_p": 1.0}})
    assert caught.value.key == "seed"
    with pytest.raises(SettingsDiffer, match="new None"):
        check_same(Path("x"), before, {**before, "new": 1})
