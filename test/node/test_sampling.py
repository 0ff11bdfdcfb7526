# SPDX-License-Identifier: Apache-2.0
"""What an instruction sets of its sampling, from message to message."""

from __future__ import annotations

import json

import pytest

from timebill_ros.msg import Overrun, Response

from .bench import Bench

# The embedded model is sure of its answers: only a hot draw differs from the likeliest tokens.
HOT = [8.0]


def ask(bench: Bench, id: str, **fields: object) -> None:
    bench.send(id, **fields)


def answers(bench: Bench) -> dict[str, Response]:
    return {response.id: response for response in bench.responses}


def test_each_instruction_is_answered_with_its_own_sampling(bench: Bench) -> None:
    bench.active(max_tokens=20)
    ask(bench, "plain")
    ask(bench, "hot", temperature=HOT, seed=[1])
    ask(bench, "again", temperature=HOT, seed=[1])
    ask(bench, "other", temperature=HOT, seed=[2])
    ask(bench, "narrow", temperature=HOT, top_p=[1e-9])
    ask(bench, "plain again")
    bench.until(lambda: len(bench.terminal()) == 6)
    text = {name: response.text for name, response in answers(bench).items()}
    assert text["hot"] == text["again"]
    assert len({text["plain"], text["hot"], text["other"]}) == 3
    assert text["plain"] == text["plain again"] == text["narrow"]


def test_each_instruction_is_ended_by_its_own_stop_strings(bench: Bench) -> None:
    bench.active(max_tokens=20)
    ask(bench, "whole")
    bench.until(lambda: bench.terminal() == ["whole"])
    whole = answers(bench)["whole"].text
    middle = whole[len(whole) // 2]
    ask(bench, "cut", stop=[middle])
    ask(bench, "uncut", stop=[""])
    bench.until(lambda: len(bench.terminal()) == 3)
    assert answers(bench)["cut"].text == whole[: whole.index(middle)]
    assert answers(bench)["cut"].finish_reason == Response.STOP
    assert answers(bench)["uncut"].text == whole


def test_under_a_schema_sampling_draws_only_what_it_allows(bench: Bench) -> None:
    bench.active(max_tokens=20)
    schema = json.dumps({"enum": ["left", "right"]})
    for seed in range(4):
        ask(bench, f"{seed}", temperature=HOT, seed=[seed], stop=["left"], response_schema=schema)
    bench.until(lambda: len(bench.terminal()) == 4)
    assert {json.loads(response.text) for response in bench.responses} <= {"left", "right"}
    assert len(bench.responses) == 4


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"temperature": [11.0]}, "temperature: 11 is not from 0 to 10"),
        ({"temperature": [float("nan")]}, "temperature: nan is not from 0 to 10"),
        ({"top_p": [0.0]}, "top_p: 0 is not above 0 and at most 1"),
        ({"seed": [2**31]}, "seed: 2147483648 is not from 0 to 2147483647"),
        ({"stop": ["ok", "x" * 257]}, "stop[1]: 257 characters are not from 1 to 256"),
    ],
)
def test_what_is_out_of_its_bounds_is_rejected_by_its_name(
    bench: Bench, fields: dict, detail: str
) -> None:
    bench.active(max_tokens=20)
    ask(bench, "a", **fields)
    bench.until(lambda: bench.terminal() == ["a"])
    (overrun,) = bench.overruns
    assert (overrun.reason, overrun.detail) == (Overrun.REJECTED, detail)
