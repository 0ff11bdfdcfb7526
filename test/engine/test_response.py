# SPDX-License-Identifier: Apache-2.0
"""How a response ends, token by token, with logits that leave no choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from timebill_ros.engine.errors import NonFiniteLogits, SchemaViolated
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.response import ResponseSoFar
from timebill_ros.engine.sampling import Sampling

EOS, PAD = 2, 0
GREEDY = Sampling()


class Held:
    """Stands for a schema that allows one token and closes to a text of its own."""

    def __init__(self, allowed: int, refused: str | None = None) -> None:
        self.allowed = allowed
        self.refused = refused
        self.accepted: list[int] = []

    def restrict(self, logits: Tensor) -> Tensor:
        only = torch.full_like(logits, -torch.inf)
        only[self.allowed] = logits[self.allowed]
        return only

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def confirm(self, text: str) -> None:
        if text == self.refused:
            raise SchemaViolated("too short")

    def closed(self) -> str:
        return "{}"


class Feed:
    """A response that takes the tokens of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, stop: tuple[str, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self.response = ResponseSoFar(tokenizer, GREEDY, stop, (EOS, PAD))

    def begin(self, max_tokens: int, held: Held | None = None, **more: Any) -> ResponseSoFar:
        self.response.begin(max_tokens, held, **more)  # type: ignore[arg-type]
        return self.response

    def take(self, *tokens: int) -> FinishReason | None:
        for token in tokens:
            assert self.response.finish_reason is None
            logits = torch.zeros(len(self.tokenizer))
            logits[token] = 1.0
            self.response.take(logits)
        return self.response.finish_reason

    def read(self, text: str) -> FinishReason | None:
        return self.take(*self.tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture
def feed(tokenizer: PreTrainedTokenizerFast) -> Feed:
    return Feed(tokenizer, ("END",))


@pytest.mark.parametrize("end", [EOS, PAD])
def test_each_of_several_end_tokens_ends_it_and_counts_but_is_no_text(feed: Feed, end: int) -> None:
    response = feed.begin(10)
    assert feed.read("ok") is None
    assert feed.take(end) is FinishReason.EOS
    assert (response.text, len(response.tokens), response.tokens[-1]) == ("ok", 3, end)


def test_the_last_token_that_may_be_ends_it(feed: Feed) -> None:
    response = feed.begin(2)
    assert feed.read("o") is None
    assert feed.read("k") is FinishReason.LENGTH
    assert response.text == "ok"


def test_an_end_at_the_last_token_that_may_be_is_an_end_by_itself(feed: Feed) -> None:
    feed.begin(1)
    assert feed.take(EOS) is FinishReason.EOS
    feed.begin(3)
    assert feed.read("END") is FinishReason.STOP


def test_a_stop_string_ends_it_and_is_cut(feed: Feed) -> None:
    response = feed.begin(10)
    assert feed.read("ok END") is FinishReason.STOP
    assert response.text == "ok "


def test_measuring_goes_on_past_every_end_but_the_last_token(feed: Feed) -> None:
    response = feed.begin(6, ignore_eos=True)
    assert feed.take(EOS) is None
    assert feed.read("END") is None
    assert feed.take(EOS) is None
    assert feed.take(EOS) is FinishReason.LENGTH
    assert len(response.tokens) == 6


def test_beginning_forgets_everything_of_the_one_before(feed: Feed) -> None:
    response = feed.begin(4, ignore_eos=True)
    feed.read("END")
    tokens = response.tokens
    feed.begin(4)
    assert (response.text, response.tokens, response.finish_reason) == ("", [], None)
    assert len(tokens) == 3  # who kept them has them still
    assert feed.take(EOS) is FinishReason.EOS


def test_under_a_schema_its_tokens_are_taken_and_stop_strings_do_not_count(feed: Feed) -> None:
    (end,) = set(feed.tokenizer.encode("E", add_special_tokens=False))
    held = Held(end)
    response = feed.begin(9, held)
    assert feed.read("ab") is None
    assert response.tokens == held.accepted == [end, end]
    held.allowed = EOS
    assert feed.read("c") is FinishReason.EOS
    assert held.accepted == [end, end, EOS]
    feed.begin(9, held)
    for character in "END":
        (held.allowed,) = feed.tokenizer.encode(character, add_special_tokens=False)
        assert feed.read("x") is None
    assert response.text == "END"
    feed.begin(9)
    assert feed.read("END") is FinishReason.STOP  # free ones are cut again


def test_what_the_grammar_let_through_is_checked_where_it_ends(feed: Feed) -> None:
    (letter,) = feed.tokenizer.encode("a", add_special_tokens=False)
    held = Held(letter, refused="a")
    feed.begin(9, held)
    feed.read("a")
    held.allowed = EOS
    with pytest.raises(SchemaViolated, match="not satisfy it: too short"):
        feed.take(EOS)


def test_half_a_stop_string_is_shown_only_where_the_response_ends_with_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    feed = Feed(tokenizer, ("Observation:",))
    response = feed.begin(20)
    feed.read("okObs")
    assert response.text == "ok"
    assert feed.take(EOS) is FinishReason.EOS
    assert response.text == "okObs"


def test_what_can_stand_for_itself_is_the_schema_s_to_say_or_whole_words(feed: Feed) -> None:
    response = feed.begin(20)
    feed.read("one. two thr")
    assert response.complete_prefix() == "one."
    feed.begin(20, Held(EOS))
    assert response.complete_prefix() == "{}"


def test_logits_that_are_no_numbers_name_the_token(feed: Feed) -> None:
    response = feed.begin(20)
    feed.read("ab")
    with pytest.raises(NonFiniteLogits, match="2"):
        response.take(torch.full((len(feed.tokenizer),), torch.nan))
    assert len(response.tokens) == 2
