# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timebill_ros.selection.methods import Lexical, RandomPassages, Recent
from timebill_ros.selection.selector import Selector, split

SCENE = "".join(f"o{i} s{i} car d4 v5 h6 l7 ; " for i in range(50))
ASK = "report o17 and o31 please"
TOKENS = len(f"{SCENE}{ASK}".split())
SELECTOR = Selector(Lexical(), window=64, head=5)


def test_what_is_asked_for_stays_in_its_order() -> None:
    scene, ask = SELECTOR.rank((SCENE, ASK), TOKENS).select(0.1)
    assert ask == ASK
    assert scene.index("o17 ") < scene.index("o31 ")
    assert len(scene) <= 0.1 * len(SCENE + ASK) + len(ASK)


def test_the_head_and_the_instruction_always_stay() -> None:
    ranked = SELECTOR.rank((SCENE, ASK), TOKENS)
    scene, ask = ranked.select(1e-6)
    assert scene == split(SCENE)[0]
    assert ask == ASK
    assert ranked.least_share == pytest.approx(len(scene + ask) / len(SCENE + ASK))


def test_the_end_of_a_single_text_is_the_instruction() -> None:
    selector = Selector(Lexical(), window=5, head=0)
    (text,) = selector.rank((f"{SCENE}{ASK}",), TOKENS).select(0.06)
    assert text.endswith(ASK)
    assert "o17 " in text
    assert "o31 " in text


def test_equal_scores_keep_the_end() -> None:
    scene, _ = Selector(Recent(), window=64, head=0).rank((SCENE, ASK), TOKENS).select(0.2)
    assert SCENE.endswith(scene)
    assert scene


def test_a_prompt_that_is_all_instruction_stays_whole() -> None:
    ranked = SELECTOR.rank(("", ASK), 5)
    assert ranked.least_share == 1.0
    assert ranked.select(0.1) == ("", ASK)


@given(
    st.lists(st.text(alphabet="ab .;\n", max_size=200), min_size=1, max_size=4),
    st.floats(0.0, 1.0),
    st.integers(0, 30),
)
def test_nothing_is_split_reordered_or_made_up(texts: list[str], share: float, head: int) -> None:
    ranked = Selector(RandomPassages(), window=4, head=head).rank(texts, 50)
    selected = ranked.select(share)
    assert len(selected) == len(texts)
    for text, short in zip(texts, selected, strict=True):
        left = iter(split(text))
        assert all(piece in left for piece in pieces(short, text))
    assert ranked.select(1.0) == tuple(texts)
    total = sum(map(len, texts))
    assert sum(map(len, selected)) <= max(share, ranked.least_share) * total + 1e-6


def pieces(short: str, text: str) -> list[str]:
    """The passages of ``text`` that ``short`` is made of, as they follow each other."""
    found = []
    for passage in split(text):
        if short.startswith(passage):
            found.append(passage)
            short = short[len(passage) :]
    assert not short
    return found


def test_more_is_kept_of_a_larger_share() -> None:
    ranked = SELECTOR.rank((SCENE, ASK), TOKENS)
    kept = [set(split(ranked.select(share)[0])) for share in (0.1, 0.3, 0.6, 1.0)]
    assert kept[0] < kept[1] < kept[2] < kept[3]
