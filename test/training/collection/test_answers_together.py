# SPDX-License-Identifier: Apache-2.0
"""Many answers at once are those that the engine gives one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.errors import HeaderUnusable, SettingsDiffer
from timebill_ros.training.collection.collect import (
    AnswersTogether,
    CollectedAnswer,
    Fate,
    collect,
    describe_target,
)
from timebill_ros.training.collection.prompts import Prompt
from timebill_ros.training.collection.states import StatesHeader, read_states, states_path
from timebill_ros.training.embedded.generation import CHECKPOINT
from timebill_ros.training.embedded.lengths import sample_tasks
from timebill_ros.training.predictor.pairs import read_pairs

LONGEST = 40
EVERY = 8
LAYERS = (1, 3)
TALKS = [
    Conversation(task.system, task.instruction) for task in sample_tasks(41, 10, 1024, unseen=False)
]


def embedded(**settings: object) -> TransformerEngine:
    chosen = EngineSettings(max_context=2048, window=16, chunk=256, **settings)  # type: ignore[arg-type]
    return TransformerEngine(load_checkpoint(CHECKPOINT), chosen)


@pytest.fixture(scope="module")
def engine() -> TransformerEngine:
    return embedded()


def answers(engine: TransformerEngine, together: int) -> Iterator[CollectedAnswer]:
    batch = AnswersTogether(engine, LONGEST, together, LAYERS, EVERY)
    for talk in TALKS:
        batch.begin(engine.prepare(talk))
        while batch.full:
            yield from batch.step()
    while batch.running:
        yield from batch.step()


def alone(engine: TransformerEngine, talk: Conversation) -> tuple[int, ...]:
    engine.begin(engine.prepare(talk), LONGEST)
    while not engine.prefill_chunk():
        pass
    while engine.finish_reason is None:
        engine.step()
    return tuple(engine.response_ids)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, seed=3)])
def test_answers_are_those_of_the_engine(sampling: Sampling) -> None:
    engine = embedded(sampling=sampling)
    together = {tuple(a.request.prompt_ids): tuple(a.response.tokens) for a in answers(engine, 4)}
    wanted = {tuple(engine.prepare(talk).prompt_ids): alone(engine, talk) for talk in TALKS}
    assert together == wanted
    assert len({len(tokens) for tokens in wanted.values()}) > 3  # they end at different times


def test_states_are_those_of_transformers(engine: TransformerEngine) -> None:
    model = load_checkpoint(CHECKPOINT).model
    for answer in answers(engine, 4):
        assert len(answer.states) == 1 + (len(answer.response.tokens) - 1) // EVERY
        for place, state in enumerate(answer.states):
            read = [*answer.request.prompt_ids, *answer.response.tokens[: place * EVERY]]
            with torch.inference_mode():
                # The engine's attention is registered with the model.
                known = model(torch.tensor([read]), output_hidden_states=True).hidden_states
            wanted = torch.stack([known[layer][0, -1] for layer in LAYERS])
            torch.testing.assert_close(state.float(), wanted, rtol=5e-3, atol=5e-3)


def test_without_the_lean_decoder_one_at_a_time() -> None:
    batch = AnswersTogether(embedded(lean=False), LONGEST, 4, LAYERS, EVERY)
    talk = TALKS[0]
    engine = embedded()
    batch.begin(engine.prepare(talk))
    assert batch.full
    done: list[CollectedAnswer] = []
    while batch.running:
        done += batch.step()
    (answer,) = done
    assert tuple(answer.response.tokens) == alone(engine, talk)
    (lean,) = (a for a in answers(engine, 2) if a.request.prompt_ids == answer.request.prompt_ids)
    for one, other in zip(answer.states, lean.states, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=5e-3, atol=5e-3)


class TestStatesBesideThePairs:
    def run(
        self, engine: TransformerEngine, output: Path, count: int, header: StatesHeader | None
    ) -> Counter[str]:
        checkpoint = load_checkpoint(CHECKPOINT)
        settings = EngineSettings(max_context=2048)
        pairs = describe_target("embedded", checkpoint, settings, LONGEST)
        prompts = [Prompt(str(number), talk) for number, talk in enumerate(TALKS[:count])]
        fates = collect(engine, prompts, output, pairs, together=3, states=header)
        return Counter(str(fate) for fate in fates)

    def header(self, engine: TransformerEngine) -> StatesHeader:
        width = load_checkpoint(CHECKPOINT).model.config.hidden_size
        return StatesHeader(LAYERS, EVERY, width)

    def test_a_second_run_goes_on(self, engine: TransformerEngine, tmp_path: Path) -> None:
        output, header = tmp_path / "pairs.jsonl", self.header(engine)
        self.run(engine, output, 4, header)
        # As if the machine had stopped between an answer's states and its line.
        with states_path(output).open("ab") as file:
            file.write(b"torn")
        fates = self.run(engine, output, len(TALKS), header)
        assert fates == {Fate.KNOWN: 4, Fate.ANSWERED: len(TALKS) - 4}
        _, pairs = read_pairs([output])
        states = read_states(output, pairs)
        wanted = {a.request.text: torch.stack(a.states).numpy() for a in answers(engine, 1)}
        for pair, found in zip(pairs, states, strict=True):
            np.testing.assert_allclose(found, wanted[pair.prompt], rtol=5e-3, atol=5e-3)

    def test_other_layers_are_refused(self, engine: TransformerEngine, tmp_path: Path) -> None:
        output, header = tmp_path / "pairs.jsonl", self.header(engine)
        self.run(engine, output, 1, header)
        with pytest.raises(SettingsDiffer, match="layers"):
            self.run(engine, output, 2, StatesHeader((2,), EVERY, header.width))

    def test_pairs_without_states_get_none_later(
        self, engine: TransformerEngine, tmp_path: Path
    ) -> None:
        output = tmp_path / "pairs.jsonl"
        self.run(engine, output, 1, None)
        with pytest.raises(HeaderUnusable, match="begun without"):
            self.run(engine, output, 2, self.header(engine))
