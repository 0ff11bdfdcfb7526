# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.engine.request import Conversation, Turn

TALK = Conversation("be brief", "and now ?", (Turn("user", "go"), Turn("assistant", "gone")))


def test_texts_come_in_the_order_of_reading() -> None:
    assert TALK.texts == ("be brief", "go", "gone", "and now ?")


def test_no_system_message_is_no_text_but_an_empty_prompt_is() -> None:
    assert Conversation("", "").texts == ("",)


@pytest.mark.parametrize("talk", [TALK, Conversation("", "stop"), Conversation("", "")])
def test_changing_takes_every_text_once_in_that_order(talk: Conversation) -> None:
    seen: list[str] = []

    def number(text: str) -> str:
        seen.append(text)
        return f"{len(seen)} {text}"

    changed = talk.with_texts(number)
    assert tuple(seen) == talk.texts
    assert changed.texts == tuple(f"{i} {text}" for i, text in enumerate(talk.texts, start=1))
    assert [turn.role for turn in changed.turns] == [turn.role for turn in talk.turns]


def test_where_there_is_no_system_message_none_is_made() -> None:
    assert Conversation("", "stop").with_texts(lambda _: "x").system == ""
