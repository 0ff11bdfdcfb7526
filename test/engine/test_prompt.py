# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.errors import PromptEmpty
from timebill_ros.engine.prompt import encode_prompt, most_characters, render_prompt

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE


@pytest.fixture
def templated(tokenizer, template):
    built = copy.copy(tokenizer)
    built.chat_template = template
    return built


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (None, "", "do it"),
        (None, "be brief", "be brief\ndo it"),
        (TEMPLATE, "", "[user]do it[assistant]"),
        (TEMPLATE, "be brief", "[system]be brief[user]do it[assistant]"),
        (NO_SYSTEM, "be brief", "[user]be brief\ndo it[assistant]"),
    ],
)
def test_prompt_is_rendered(templated, system, expected):
    rendered = render_prompt(templated, system, "do it")
    assert rendered == expected
    assert templated.decode(encode_prompt(templated, rendered)) == expected


@pytest.mark.parametrize("prompt", ["", "  \n"])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_blank_prompts_are_refused(templated, prompt):
    with pytest.raises(PromptEmpty):
        render_prompt(templated, "be brief", prompt)


@pytest.mark.parametrize("text", ["\x00", "\ufffd", "😀", "a\u202eb"])
def test_any_character_is_encoded(tokenizer, text):
    assert tokenizer.decode(encode_prompt(tokenizer, text)) == text


def test_half_a_surrogate_pair_is_replaced(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, "a\ud800b")) == "a?b"


@pytest.mark.parametrize("text", ["a" * 40, "é" * 20, "😀" * 10])
def test_no_text_of_so_many_tokens_has_more_characters(tokenizer, text):
    tokens = encode_prompt(tokenizer, text)
    assert len(text) <= most_characters(tokenizer, len(tokens))


def test_the_longest_token_bounds_the_characters():
    words = {"word": 0, "elephantine": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)))
    assert most_characters(tokenizer, 10) == 10 * len("elephantine")
    assert encode_prompt(tokenizer, "elephantine") == [1]
