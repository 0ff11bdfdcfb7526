# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.selection.selector import split


@given(st.text(alphabet="ab .;\n箱カ。」", max_size=400))
def test_the_passages_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text
    assert all(split(text))


def test_records_and_sentences_are_passages() -> None:
    text = "ego v1 l2 cruise ; o1 s3 car d4 v5 h6 l7 ; The robot took the box. It went on then!"
    assert split(text) == [
        "ego v1 l2 cruise ; ",
        "o1 s3 car d4 v5 h6 l7 ; ",
        "The robot took the box. It went on then!",
    ]


def test_a_heading_stays_with_its_text() -> None:
    assert split("Speed\nThe limit here is thirty.\nTurns\nThere are none at all.\n") == [
        "Speed\nThe limit here is thirty.\n",
        "Turns\nThere are none at all.\n",
    ]


@pytest.mark.parametrize("words", [65, 128, 200])
def test_a_text_without_ends_is_cut_between_words(words: int) -> None:
    passages = split("word " * words)
    assert len(passages) >= words // 64
    assert all(len(passage.split()) <= 64 + 5 for passage in passages)


def test_sentences_without_white_space_are_passages() -> None:
    sentences = ["机器人把蓝箱放到架上。", "然后它停在门口等待。", "箱子在哪里？"]  # noqa: RUF001
    assert split("".join(sentences)) == sentences


@pytest.mark.parametrize("text", ["箱" * 300, "カメラ" * 100, "x" * 6400])
def test_a_text_without_white_space_or_ends_is_cut(text: str) -> None:
    passages = split(text)
    assert "".join(passages) == text
    assert len(passages) > 1
    assert all(len(passage) <= 64 * 64 for passage in passages)
