# SPDX-License-Identifier: Apache-2.0
"""Arguments as a user types them, and what is said of those that cannot be."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from timebill_ros.cli.arguments import node_name, positive_count, positive_seconds
from timebill_ros.node.conversions import duration_msg


def parsed(kind: Callable[[str], object], text: str) -> object:
    parser = argparse.ArgumentParser(prog="command")
    parser.add_argument("--it", type=kind)
    return parser.parse_args([f"--it={text}"]).it


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1e-3", 0.001), ("2147483647", 2147483647.0), ("1_0", 10.0)]
)
def test_a_time_fits_a_message(text: str, value: float) -> None:
    assert parsed(positive_seconds, text) == value
    duration_msg(positive_seconds(text))


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "2147483648", "1e99", "soon", "1s", ""])
def test_what_is_no_time_is_named_with_its_bounds(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(positive_seconds, text)
    said = capsys.readouterr().err
    assert f"argument --it: {text!r} is no time above 0 and below 2147483648 s" in said


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("007", 7), ("1000000", 1_000_000)])
def test_a_count(text: str, value: int) -> None:
    assert parsed(positive_count, text) == value


@pytest.mark.parametrize("text", ["0", "-1", "+1", "1.0", "1e3", "1_000", " 1", "", "two", "²"])
def test_what_is_no_count_is_named(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(positive_count, text)
    said = capsys.readouterr().err
    assert f"argument --it: {text!r} is not a whole number, 1 or more" in said


@pytest.mark.parametrize("text", ["llm", "/llm"])
def test_a_node_s_name_may_lack_its_slash(text: str) -> None:
    assert parsed(node_name, text) == "/llm"
    assert parsed(node_name, f"robot/{text.lstrip('/')}") == "/robot/llm"
