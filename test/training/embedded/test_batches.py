# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.training.embedded.batches import Batch, BatchSampler, build_tokenizer
from timebill_ros.workload.vocabulary import domain_words

TOKENIZER = build_tokenizer(domain_words(), 2048)
LENGTH, REACH = 600, 4000


@pytest.fixture(scope="module")
def batch() -> Batch:
    return BatchSampler(TOKENIZER, 0).sample(4, LENGTH, scene_share=0.6, reach=REACH)


def pieces(batch: Batch, sequence: int) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(batch.tokens[sequence].tolist())


def test_a_seed_fixes_the_batch(batch: Batch) -> None:
    again = BatchSampler(TOKENIZER, 0).sample(4, LENGTH, scene_share=0.6, reach=REACH)
    other = BatchSampler(TOKENIZER, 1).sample(4, LENGTH, scene_share=0.6, reach=REACH)
    assert torch.equal(batch.tokens, again.tokens)
    assert torch.equal(batch.targets.weights, again.targets.weights)
    assert not torch.equal(batch.tokens, other.tokens)


def test_only_answers_are_to_be_predicted(batch: Batch) -> None:
    for sequence in range(4):
        answering = False
        for piece, wanted in zip(pieces(batch, sequence), batch.answer[sequence], strict=True):
            assert bool(wanted) == answering
            answering = piece == "<ans>" or (answering and piece != "<eos>")


def test_positions_grow_and_leave_gaps_between_records_only(batch: Batch) -> None:
    assert batch.positions.max() < REACH
    gaps = 0
    for sequence in range(4):
        words = pieces(batch, sequence)
        for i, step in enumerate(batch.positions[sequence].diff().tolist()):
            assert step >= 1
            assert step == 1 or words[i] in ("▁;", "▁:")
            gaps += step > 1
    assert gaps


def test_attention_targets_are_the_named_objects_data(batch: Batch) -> None:
    checked = 0
    for sequence in range(4):
        words = pieces(batch, sequence)
        asked = words.index("<ask>")
        for row, weights in zip(
            batch.targets.rows[sequence].tolist(), batch.targets.weights[sequence], strict=True
        ):
            if not weights.any():
                continue
            assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)
            span = weights.nonzero()[:, 0].tolist()
            assert max(span) < asked
            assert max(span) <= row
            name = words[row - 1] if words[row] == "<ans>" else words[row]
            if row > asked and name.startswith(("▁o", "▁ego")):
                assert words[span[0]] == name
                assert words[span[-1]] == "▁;"
                assert len(span) == (5 if name == "▁ego" else 8)
                checked += 1
            elif row > asked:
                assert words[span[0] : span[0] + 2] == ["▁sector", name]
    assert checked > 10


@pytest.fixture(scope="module")
def hiding() -> Batch:
    sampler = BatchSampler(TOKENIZER, 1)
    return next(
        b
        for b in iter(lambda: sampler.sample(4, LENGTH, 0.6, REACH), None)
        if b.visible() is not None
    )


def test_only_answers_do_not_see_what_is_hidden(hiding: Batch) -> None:
    visible = hiding.visible()
    before = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    hidden_from = before & ~visible[:, 0]
    assert hidden_from.any()
    assert torch.equal(hidden_from.any(2), hiding.answer & hiding.hidden.any(1, keepdim=True))
    assert torch.equal(hidden_from.any(1), hiding.hidden)


def test_answers_do_not_tell_what_is_hidden(hiding: Batch) -> None:
    asked_for = 0
    for sequence in range(4):
        words = pieces(hiding, sequence)
        scene = range(words.index("<ask>"))
        lost = {words[i] for i in scene if hiding.hidden[sequence, i] and words[i].startswith("▁o")}
        for i in range(scene.stop, LENGTH - 1):
            if hiding.answer[sequence, i] and words[i] in lost:
                assert words[i + 1] == "▁unknown"
                asked_for += 1
    assert asked_for > 0
