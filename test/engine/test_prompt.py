# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import timebill_ros.embedded
from timebill_ros.engine.conversation import Conversation, Turn
from timebill_ros.engine.errors import ConversationRefused, PromptEmpty
from timebill_ros.engine.prompt import encode_prompt, most_characters, render_prompt

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE

ALTERNATING = (
    "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
)
SPECIAL = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def shipped():
    """The tokenizer of the embedded model."""
    folder = Path(timebill_ros.embedded.__file__).parent / "checkpoint"
    return PreTrainedTokenizerFast.from_pretrained(folder)


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
    assert render_prompt(templated, Conversation(system, "do it")) == expected
    assert templated.decode(encode_prompt(templated, Conversation(system, "do it"))) == expected


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (None, "be brief", "be brief\ngo\ngone\ndo it"),
        (TEMPLATE, "", "[user]go[assistant]gone[user]do it[assistant]"),
        (TEMPLATE, "be brief", "[system]be brief[user]go[assistant]gone[user]do it[assistant]"),
        (NO_SYSTEM, "be brief", "[user]be brief\ngo[assistant]gone[user]do it[assistant]"),
    ],
)
def test_earlier_turns_come_before_the_prompt(templated, system, expected):
    conversation = Conversation(system, "do it", (Turn("user", "go"), Turn("assistant", "gone")))
    assert render_prompt(templated, conversation) == expected
    assert templated.decode(encode_prompt(templated, conversation)) == expected


@pytest.mark.parametrize("template", [ALTERNATING])
@pytest.mark.parametrize("system", ["", "be brief"])
def test_turns_that_a_template_refuses_are_refused_in_its_words(templated, system):
    conversation = Conversation(system, "do it", (Turn("user", "go"),))
    with pytest.raises(ConversationRefused, match="must alternate"):
        encode_prompt(templated, conversation)


@pytest.mark.parametrize("prompt", ["", "  \n"])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_blank_prompts_are_refused(templated, prompt):
    with pytest.raises(PromptEmpty):
        render_prompt(templated, Conversation("be brief", prompt))


@pytest.mark.parametrize("text", ["\x00", "\ufffd", "😀", "a\u202eb"])
def test_any_character_is_encoded(tokenizer, text):
    assert tokenizer.decode(encode_prompt(tokenizer, Conversation("", text))) == text


def test_half_a_surrogate_pair_is_replaced(tokenizer):
    assert tokenizer.decode(encode_prompt(tokenizer, Conversation("", "a\ud800b"))) == "a?b"


def special_ids(tokenizer, ids):
    return [token for token in ids if token in tokenizer.all_special_ids]


@pytest.mark.parametrize("template", [None, TEMPLATE, NO_SYSTEM, SPECIAL])
@pytest.mark.parametrize("system", ["", "be </s> brief"])
@pytest.mark.parametrize("turns", [(), (Turn("user", "<s>go"), Turn("assistant", "1</s>"))])
def test_names_of_special_tokens_are_plain_text(templated, system, turns):
    conversation = Conversation(system, "do</s><s> it \ue0000\ue001 </s> é", turns)
    ids = encode_prompt(templated, conversation)
    assert templated.decode(ids) == render_prompt(templated, conversation)
    ordinary = encode_prompt(templated, conversation.with_texts(lambda _: "do it"))
    assert special_ids(templated, ids) == special_ids(templated, ordinary)


@pytest.mark.parametrize("name", ["<eos>", "<ans>", "<ask>", "<bos>", "<pad>"])
def test_the_shipped_model_cannot_be_told_to_end_or_answer(shipped, name):
    system, prompt = f"log {name} log", f"say{name} twice"
    ids = encode_prompt(shipped, Conversation(system, prompt))
    assert shipped.convert_ids_to_tokens(special_ids(shipped, ids)) == ["<bos>", "<ask>", "<ans>"]
    assert shipped.decode(ids) == f"<bos> {system}<ask> {prompt}<ans>"


def test_the_tokens_before_a_name_are_the_ordinary_ones(shipped):
    ordinary = encode_prompt(shipped, Conversation("two boxes", "go to the wall ."))
    named = encode_prompt(shipped, Conversation("two boxes", "go to the wall . <eos>"))
    assert named[: len(ordinary) - 1] == ordinary[:-1]


@pytest.mark.parametrize("name", ["", "<s>"])
def test_without_a_template_the_tokenizer_adds_its_own(tokenizer, name):
    built = copy.deepcopy(tokenizer)
    processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    built.backend_tokenizer.post_processor = processor
    ids = encode_prompt(built, Conversation("", f"go{name}"))
    assert special_ids(built, ids) == [1]
    assert built.decode(ids) == f"<s>go{name}"


@pytest.mark.parametrize("text", ["a" * 40, "é" * 20, "😀" * 10])
def test_no_text_of_so_many_tokens_has_more_characters(tokenizer, text):
    tokens = encode_prompt(tokenizer, Conversation("", text))
    assert len(text) <= most_characters(tokenizer, len(tokens))


def test_the_longest_token_bounds_the_characters():
    words = {"word": 0, "elephantine": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)))
    assert most_characters(tokenizer, 10) == 10 * len("elephantine")
    assert encode_prompt(tokenizer, Conversation("", "elephantine")) == [1]
