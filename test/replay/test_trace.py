# SPDX-License-Identifier: Apache-2.0
"""Arrival traces and tables of lengths, good and bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from timebill_ros.node.conversions import nanoseconds
from timebill_ros.replay.recording import BadInput, Lengths
from timebill_ros.replay.trace import Budget, read_lengths, read_trace
from timebill_ros.runtime.clock import NS_PER_S

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:46.6805900,374,44
2024-05-10 00:00:00.009930+00:00,879,55
"""
ONE_SECOND = Budget(1.0, 0.0)


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_the_azure_traces_are_read_in_order_of_arrival(tmp_path: Path) -> None:
    items = read_trace(table(tmp_path, AZURE), Budget(0.5, 0.01), filled=False)
    assert [item.lengths for item in items] == [
        Lengths(374, 44),
        Lengths(396, 109),
        Lengths(879, 55),
    ]
    assert items[1].at_ns - items[0].at_ns == 4_314_579_000
    assert items[0].at_ns == 1_700_158_546_680_590_000
    first = items[0].instruction
    assert nanoseconds(first.header.stamp) == items[0].at_ns
    assert nanoseconds(first.budget) == pytest.approx(0.94 * NS_PER_S)
    assert [item.instruction.id for item in items] == ["1", "2", "3"]
    assert first.max_tokens == 0


def test_for_a_real_node_prompts_and_answers_are_as_long_as_the_trace_says(tmp_path: Path) -> None:
    (first, *_) = read_trace(table(tmp_path, AZURE), ONE_SECOND, filled=True)
    assert len(first.instruction.prompt.split()) == 374
    assert first.instruction.max_tokens == 44


@pytest.mark.parametrize(
    "header",
    [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "arrived_at,x,num_prefill_tokens,num_decode_tokens,y,z",
    ],
)
def test_other_public_traces_are_read_too(tmp_path: Path, header: str) -> None:
    text = f"{header}\n0,GPT-4,472,18,490,chat\n45.5,GPT-4,1087,230,1317,chat\n"
    items = read_trace(table(tmp_path, text), ONE_SECOND, filled=False)
    assert [item.lengths for item in items] == [Lengths(472, 18), Lengths(1087, 230)]
    assert items[0].at_ns > 0
    assert items[1].at_ns - items[0].at_ns == 45_500_000_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "line 1: no column timestamp or arrivedat; there are: none"),
        ("TIMESTAMP,ContextTokens\n", "line 1: no column generatedtokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "a trace without a line of data"),
        (AZURE + "2023-11-16 18:15:50,12\n", "line 5: 2 columns where the first line has 3"),
        (AZURE + "yesterday,12,3\n", "line 5: timestamp: Invalid isoformat string: 'yesterday'"),
        (AZURE + "nan,12,3\n", "line 5: timestamp: Invalid isoformat string: 'nan'"),
        (AZURE + "-5,12,3\n", "line 5: timestamp: '-5' is no time from 1970"),
        (AZURE + "1,twelve,3\n", "line 5: contexttokens: invalid literal"),
        (AZURE + "1,12,0\n", "line 5: generatedtokens: 0 is not a positive number of tokens"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, fault: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        read_trace(path, ONE_SECOND, filled=False)
    assert str(caught.value).startswith(f"{path}: {fault}")


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(BadInput, match="No such file"):
        read_trace(path, ONE_SECOND, filled=False)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInput, match="cannot be read"):
        read_trace(path, ONE_SECOND, filled=False)


def test_a_table_of_lengths_may_be_an_earlier_replay_s(tmp_path: Path) -> None:
    text = """id,outcome,prompt_tokens,response_tokens,predicted_tokens,text
a,in time,100,20,32,x
b,killed,200,5,48,
c,expired,300,0,,
d,rejected,0,0,,
"""
    assert read_lengths(table(tmp_path, text)) == {
        "a": Lengths(100, 20, 32),
        "b": Lengths(200, 48, 48),
    }
    assert read_lengths(table(tmp_path, "id,prompt_tokens,response_tokens\nx,7,9\n")) == {
        "x": Lengths(7, 9)
    }
    with pytest.raises(BadInput, match="line 2: contexttokens: -7 is not a positive"):
        read_lengths(table(tmp_path, "id,prompt_tokens,response_tokens\nx,-7,9\n"))
