# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from timebill_ros.embedded.batches import Batch, BatchSampler
from timebill_ros.embedded.tokenizer import build_tokenizer
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
            if row > asked and words[row].startswith("▁o"):
                assert words[span[0]] == words[row]
                assert words[span[-1]] == "▁;"
                assert len(span) == 8
                checked += 1
            elif row > asked:
                assert words[span[0] : span[0] + 2] == ["▁sector", words[row]]
    assert checked > 10
