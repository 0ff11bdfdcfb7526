# SPDX-License-Identifier: Apache-2.0
"""Answers of the embedded model side by side, against one at a time."""

from __future__ import annotations

import math

import pytest

from timebill_ros.bench.answers import Answer, AnsweredCase, Answering, Levers
from timebill_ros.bench.cases import Case, embedded_cases
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.transformer_engine import EngineSettings, TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings
from timebill_ros.selection.methods import make_selection_method
from timebill_ros.selection.selector import Selector

MOST = 24
LEVERS = Levers(shares=(1.0, 0.5), alphas=(0.0, 0.5, 0.9), alphas_selected=(0.0, 0.9))


@pytest.fixture(scope="module")
def engine() -> TransformerEngine:
    checkpoint = load_checkpoint(model_folder(Settings()))
    return TransformerEngine(checkpoint, EngineSettings(max_context=1024, window=64))


@pytest.fixture(scope="module")
def case() -> Case:
    return embedded_cases(1, [5], (400, 500))[0]


@pytest.fixture(scope="module")
def answered(engine: TransformerEngine, case: Case) -> AnsweredCase:
    selectors = {
        name: Selector(make_selection_method(name), 64, 16) for name in ("lexical", "recent")
    }
    return Answering(engine, selectors, MOST).answer(case, LEVERS, timed=True)


def alone(engine: TransformerEngine, talk: Conversation, kept: int) -> tuple[str, int]:
    """The engine's own answer, evicted once."""
    engine.begin(engine.prepare(talk), MOST)
    while not engine.prefill_chunk():
        pass
    engine.evict(kept)
    while engine.finish_reason is None:
        engine.step()
    return engine.text(), engine.response_tokens


def pulled(answer: Answer) -> tuple[str, float]:
    return answer.selection, answer.share


def test_every_lever_has_an_answer(answered: AnsweredCase) -> None:
    selected = [(name, 0.5) for name in ("lexical", "recent") for _ in range(2)]
    assert [pulled(answer) for answer in answered.answers] == [("", 1.0)] * 3 + selected
    n_x = answered.whole.prompt_tokens
    kept = [answer.kept_tokens for answer in answered.of_share(1.0)]
    assert kept == [n_x, math.floor(0.5 * n_x), max(64, math.floor(0.1 * n_x + 1e-6))]


def test_answers_are_the_engine_s_own(
    engine: TransformerEngine, case: Case, answered: AnsweredCase
) -> None:
    selector = Selector(make_selection_method("recent"), 64, 16)
    ranked = selector.rank(case.conversation.texts, answered.whole.prompt_tokens)
    texts = iter(ranked.select(0.5))
    talks = {1.0: case.conversation, 0.5: case.conversation.with_texts(lambda _: next(texts))}
    for answer in answered.selected_by("recent").answers:
        text, tokens = alone(engine, talks[answer.share], answer.kept_tokens)
        assert (answer.text, answer.response_tokens) == (text, tokens)
        assert answer.score == pytest.approx(case.score(text), abs=1e-4)


def test_the_whole_answer_is_measured(answered: AnsweredCase) -> None:
    assert answered.measured is not None
    assert answered.measured.response_tokens == answered.whole.response_tokens
    assert min(answered.measured.prefill, answered.measured.decode) > 0.0
