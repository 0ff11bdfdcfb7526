# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timebill_ros.engine.text import ResponseText


def tokens_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def fed(tokenizer, text, stop=()):
    response = ResponseText(tokenizer, stop)
    for token in tokens_of(tokenizer, text):
        response.append(token)
        if response.stopped:
            break
    return response


@settings(deadline=None, derandomize=True)
@given(text=st.text(max_size=20), stepwise=st.booleans())
def test_text_is_what_was_encoded(tokenizer, text, stepwise):
    response = ResponseText(tokenizer)
    for token in tokens_of(tokenizer, text):
        response.append(token)
        if stepwise:
            assert text.startswith(response.text)
    # A text that ends in U+FFFD looks like half a character and is held back.
    assert response.text == text.rstrip("\ufffd") or text.endswith("\ufffd")


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


def test_reset_forgets_the_response(tokenizer):
    response = fed(tokenizer, "one END", ("END",))
    response.reset()
    assert (response.text, response.stopped) == ("", False)
