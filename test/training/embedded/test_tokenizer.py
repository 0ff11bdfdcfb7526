# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from timebill_ros.training.embedded.batches import build_tokenizer

WORDS = ("sector", "s3", "o1", "car", ";")
TOKENIZER = build_tokenizer(WORDS, 1000)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_a_word_of_the_workload_is_one_token() -> None:
    assert len(encode("sector s3 o1 car ;")) == 5
    assert TOKENIZER.decode(encode("sector s3 o1 car ;")) == "sector s3 o1 car ;"


@pytest.mark.parametrize(
    "text",
    ["", "o1 o2", "two  spaces", "end ", "🚗 in s3", "漢字テスト", "e\u0301\u200b", "\x00\x01\t\n",
     "o1\no1", "<0x41>", "café", "\ufeff", "x" * 300],
)  # fmt: skip
def test_any_text_comes_back(text: str) -> None:
    tokens = encode(text)
    assert None not in tokens
    assert TOKENIZER.decode(tokens) == text


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁<"), max_size=60))
def test_random_text_comes_back_but_for_one_leading_space(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text.removeprefix(" ")


def test_the_chat_template_frames_scene_and_instruction() -> None:
    messages = [{"role": "system", "content": "s3 car"}, {"role": "user", "content": "o1"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<bos>s3 car<ask>o1<ans>"
    pieces = TOKENIZER.convert_ids_to_tokens(encode(text))
    assert pieces == ["<bos>", "▁s3", "▁car", "<ask>", "▁o1", "<ans>"]
    answered = [*messages, {"role": "assistant", "content": "car"}]
    text = TOKENIZER.apply_chat_template(answered, tokenize=False)
    assert text == "<bos>s3 car<ask>o1<ans>car<eos>"


def test_it_is_saved_as_an_ordinary_fast_tokenizer(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path, save_jinja_files=False)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded.encode("s3 🚗") == TOKENIZER.encode("s3 🚗")
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.eos_token == "<eos>"
