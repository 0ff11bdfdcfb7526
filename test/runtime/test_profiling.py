# SPDX-License-Identifier: Apache-2.0
"""How long selecting takes, by a clock that only tokenising moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from timebill_ros.engine.request import Conversation, PreparedRequest
from timebill_ros.runtime.profiling import profile_selection

TICK = 10  # ns, whenever the clock is looked at
TOKEN = 1000  # ns, that a word takes to tokenise


@dataclass
class Words:
    """Of an engine what tokenises: a word is a token."""

    max_context: int
    window: int = 16
    max_prompt_chars: int = 1_000_000
    now: int = 0

    def prepare(self, conversation: Conversation) -> PreparedRequest:
        tokens = len(conversation.prompt.split())
        self.now += TOKEN * tokens
        return PreparedRequest(range(tokens))

    def look(self) -> int:
        self.now += TICK
        return self.now


def test_ranking_and_tokenising_are_timed_apart() -> None:
    engine = Words(max_context=8192)
    rank, render = profile_selection(engine, engine.look)  # type: ignore[arg-type]
    assert [point.seconds for point in rank] == pytest.approx([TICK * 1e-9] * len(rank))
    for whole, kept in zip(rank, render, strict=True):
        assert 0.4 * whole.tokens < kept.tokens <= 0.5 * whole.tokens
        assert kept.seconds == pytest.approx((TOKEN * kept.tokens + TICK) * 1e-9)
    assert len({point.tokens for point in rank}) >= 3


def test_no_prompt_is_longer_than_the_context() -> None:
    engine = Words(max_context=1000)
    rank, _ = profile_selection(engine, engine.look)  # type: ignore[arg-type]
    assert [point.tokens for point in rank] == [576]
    assert profile_selection(Words(max_context=100), engine.look) == ((), ())  # type: ignore[arg-type]
