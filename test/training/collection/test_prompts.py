# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from timebill_ros.engine.request import Conversation, Turn
from timebill_ros.predictor.errors import BadLine
from timebill_ros.training.collection.prompts import read_prompts

USER = {"role": "user", "content": "and now?"}


def test_every_form_of_a_line_is_read(write_lines: Callable[..., Path]) -> None:
    earlier = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = write_lines(
        {"prompt": "go"},
        "",
        {"system": "be brief", "prompt": "go", "id": 7},
        {"messages": [{"role": "system", "content": "be brief"}, *earlier, USER]},
    )
    prompts = list(read_prompts(path, chat_template=True))
    turns = (Turn("user", "hi"), Turn("assistant", "hello"))
    assert [prompt.conversation for prompt in prompts] == [
        Conversation("", "go"),
        Conversation("be brief", "go"),
        Conversation("be brief", "and now?", turns),
    ]
    assert [prompt.source for prompt in prompts] == [f"{path}, line {n}" for n in (1, 3, 4)]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"text": "go"}, "field prompt is missing"),
        ({"prompt": 3}, "field prompt is 3, not text"),
        ({"prompt": " "}, "field prompt is blank"),
        ({"prompt": "go", "system": ["x"]}, "field system is"),
        ({"messages": "go"}, "field messages is not a list"),
        ({"messages": []}, "does not end with a message of the user"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "does not end with"),
        ({"messages": [{"role": "tool", "content": "x"}, USER]}, "role 'tool' is none of"),
        ({"messages": [{"role": "user"}]}, "field content is missing"),
    ],
)
def test_a_bad_line_is_named(write_lines: Callable[..., Path], line: object, named: str) -> None:
    path = write_lines({"prompt": "go"}, line)
    with pytest.raises(BadLine, match=named) as caught:
        list(read_prompts(path, chat_template=True))
    assert f"{path}, line 2: " in str(caught.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(BadLine, match="line 1: not UTF-8"):
        list(read_prompts(tmp_path / "prompts.jsonl", chat_template=True))


def test_messages_need_a_chat_template(write_lines: Callable[..., Path]) -> None:
    path = write_lines({"prompt": "go"}, {"messages": [USER]})
    with pytest.raises(BadLine, match="line 2: field messages needs a target with a chat template"):
        list(read_prompts(path, chat_template=False))
