# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.response import ResponseText
from timebill_ros.training.embedded.batches import build_tokenizer


def tokens_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def fed(tokenizer, text, stop=()):
    response = ResponseText(tokenizer, stop)
    for token in tokens_of(tokenizer, text):
        response.append(token)
        if response.stopped:
            break
    return response


@given(text=st.text(max_size=20), stepwise=st.booleans())
def test_text_is_what_was_encoded(tokenizer, text, stepwise):
    response = ResponseText(tokenizer)
    for token in tokens_of(tokenizer, text):
        response.append(token)
        if stepwise:
            assert text.startswith(response.text)
    # U+FFFD at the end looks like half a character and is held back.
    assert response.text == text.rstrip("\ufffd")


@pytest.fixture(scope="session")
def fallback_tokenizer():
    """A tokenizer that decodes runs of bytes together, and not at all if one is left over."""
    return build_tokenizer(["word"], max_length=100)


def byte_tokens(tokenizer, text):
    names = [f"<0x{byte:02X}>" for byte in text.encode()]
    known = tokenizer.get_vocab()
    return [known[name] for name in names] if names[0] in known else tokens_of(tokenizer, text)


@pytest.mark.parametrize("kind", ["tokenizer", "fallback_tokenizer"])
@pytest.mark.parametrize("stop", [(), ("no such",)], ids=["no stop", "stop"])
@pytest.mark.parametrize(
    "text", ["é", "café", "€5 für Öl", "日本語", "😀😀", "a\u0301😀b", "\ufffda"]
)
def test_only_the_cut_character_is_missing_wherever_a_response_is_cut(request, kind, stop, text):
    tokenizer = request.getfixturevalue(kind)
    tokens = byte_tokens(tokenizer, text)
    for end in range(len(tokens) + 1):
        response = ResponseText(tokenizer, stop)
        for token in tokens[:end]:
            response.append(token)
        whole = text.encode()[:end].decode(errors="ignore")
        assert response.text == whole.rstrip("\ufffd")


def test_what_follows_a_stop_string_is_not_shown_while_it_is_incomplete():
    pieces = {"END\u00c3": 0, "\u00a9": 1, "a": 2}  # the bytes of "ENDé" in two tokens
    byte_level = Tokenizer(BPE(vocab=pieces, merges=[]))
    byte_level.decoder = ByteLevel()
    response = ResponseText(PreTrainedTokenizerFast(tokenizer_object=byte_level), ("END",))
    response.append(2)
    response.append(0)
    assert response.text == "a"


def test_half_a_character_is_held_back(tokenizer):
    response = ResponseText(tokenizer)
    first, second = tokens_of(tokenizer, "é")
    response.append(first)
    assert response.text == ""
    response.append(second)
    assert response.text == "é"


def test_broken_bytes_do_not_hold_back_what_follows(tokenizer):
    response = ResponseText(tokenizer)
    for token in [
        *tokens_of(tokenizer, "a"),
        tokens_of(tokenizer, "é")[0],
        *tokens_of(tokenizer, "b"),
    ]:
        response.append(token)
        response.text  # noqa: B018 - reading settles what is complete
    assert response.text == "a\ufffdb"


def test_special_tokens_leave_no_text(tokenizer):
    response = ResponseText(tokenizer)
    for token in [1, *tokens_of(tokenizer, "ok"), 0]:
        response.append(token)
    assert response.text == "ok"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("END",), "one two "),
        (("two", "END"), "one "),
        (("E",), "one two "),
        (("no such",), "one two END three"),
    ],
)
def test_text_is_cut_before_the_first_stop_string(tokenizer, stop, expected):
    response = fed(tokenizer, "one two END three", stop)
    assert response.text == expected
    assert response.stopped == (expected != "one two END three")


def test_stop_strings_may_hold_characters_of_several_bytes(tokenizer):
    assert fed(tokenizer, "über Öl", ("Ö",)).text == "über "


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        (" Thought ok", " Thought ok"),
        (" Thought okObs", " Thought ok"),
        (" Thought okObservation:", " Thought ok"),
        (" Obst", " Obst"),
        ("a\n", "a"),
        ("aObObserv", "aOb"),
    ],
)
def test_what_may_become_a_stop_string_is_not_certain(tokenizer, text, certain):
    response = fed(tokenizer, text, ("Observation:", "\n\nObs", "\n\n"))
    assert response.certain == certain
    assert response.text == ("" if response.stopped else text) or response.text == certain


def test_nothing_that_was_certain_is_taken_back(tokenizer):
    text, stop = "ab aab aabaa aaba", ("aabaaab", "aaba a", "b aabaax")
    response, before = ResponseText(tokenizer, stop), ""
    for token in tokens_of(tokenizer, text):
        response.append(token)
        assert response.certain.startswith(before)
        before = response.certain
    assert (before, response.text) == ("ab aab aabaa ", text)


class Counting:
    """A tokenizer that counts what it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.decoded = 0

    def decode(self, tokens, **options):
        self.decoded += len(tokens)
        return self.tokenizer.decode(tokens, **options)


@pytest.mark.parametrize("kind", ["tokenizer", "fallback_tokenizer"])
@pytest.mark.parametrize("reads", [1, 50, 2000])
def test_bytes_that_never_become_a_character_are_decoded_a_few_times_at_most(request, kind, reads):
    tokenizer = request.getfixturevalue(kind)
    half = byte_tokens(tokenizer, "é")[0]
    counting = Counting(tokenizer)
    response = ResponseText(counting, ("stop",) if reads == 1 else ())
    for count in range(1, 2001):
        response.append(half)
        if count % (2000 // reads) == 0:
            assert len(response.text) >= count - 8
    assert counting.decoded < 2000 * 120


def test_what_follows_many_broken_bytes_is_read(tokenizer):
    response = ResponseText(tokenizer, ("END",))
    half = tokens_of(tokenizer, "é")[0]
    for token in [half] * 30 + tokens_of(tokenizer, "é😀 ok END no"):
        response.append(token)
        if response.stopped:
            break
    assert response.text == "\ufffd" * 30 + "é😀 ok "


def test_reset_forgets_the_response(tokenizer):
    response = fed(tokenizer, "one END", ("END",))
    response.reset()
    assert (response.text, response.stopped) == ("", False)
