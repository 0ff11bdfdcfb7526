# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.embedded.lengths import Pair, expected, read_pairs, sample_tasks, write_pairs
from timebill_ros.embedded.predictor_quality import measure
from timebill_ros.embedded.tokenizer import build_tokenizer
from timebill_ros.embedded.train_predictor import BUCKET_SIZE, initialise, train
from timebill_ros.predictor.embedded_predictor import CrossAttentionClassifier, Shape
from timebill_ros.workload.vocabulary import domain_words


def test_pairs_come_back_from_their_file(tmp_path: Path) -> None:
    pairs = [Pair((1, 2, 3), 9), Pair((4,), 400)]
    write_pairs(tmp_path / "pairs.npz", pairs)
    assert read_pairs(tmp_path / "pairs.npz") == pairs


def test_expected_lengths_are_those_of_the_references() -> None:
    tokenizer = build_tokenizer(domain_words(), 4096)
    tasks = list(sample_tasks(seed=0, count=5, longest_prompt=400))
    pairs = list(expected(tokenizer, tasks))
    for task, pair in zip(tasks, pairs, strict=True):
        answer = tokenizer.encode(task.reference, add_special_tokens=False)
        assert pair.response_tokens == len(answer) + 1
        assert tokenizer.decode(pair.prompt_ids).endswith("<ans>")
    assert tasks == list(sample_tasks(seed=0, count=5, longest_prompt=400))


class FixedPredictor:
    """Always predicts one bucket."""

    bucket_size = 10

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket

    def predict(
        self, text: str, prompt_ids: tuple[int, ...], max_input: int | None
    ) -> LengthDistribution:
        return LengthDistribution(np.eye(5)[self.bucket - 1], self.bucket_size)


def test_quality_of_a_known_prediction() -> None:
    pairs = [Pair((0,), n) for n in (15, 20, 25)]
    quality = measure(FixedPredictor(2), pairs, max_tokens=50)
    assert quality.pairs == 3
    assert quality.mae == pytest.approx((5 + 0 + 5) / 3)
    assert quality.rmse == pytest.approx((50 / 3) ** 0.5)
    assert quality.r2 == pytest.approx(0.0)
    assert quality.bucket_accuracy == pytest.approx(2 / 3)
    assert quality.covered == pytest.approx(2 / 3)
    assert quality.mae_of_mean == pytest.approx(10 / 3)
    assert quality.mae_of_middle == pytest.approx((0.5 + 4.5 + 9.5) / 3)


def test_training_tells_two_prompts_apart_and_repeats() -> None:
    pairs = [Pair((5, 6, 7), 10), Pair((5, 6, 8, 9), 5 * BUCKET_SIZE)] * 16
    runs = []
    for _ in range(2):
        network = CrossAttentionClassifier(Shape(12, 6, hidden=8, tail=4))
        initialise(network, torch.randn(12, 10, generator=torch.manual_seed(1)), 5, seed=0)
        runs.append(list(train(network, pairs, seed=0, steps=200)))
    assert runs[0] == runs[1]
    network.eval()
    for pair, label in zip(pairs[:2], (0, 4), strict=True):
        tokens = torch.tensor([pair.prompt_ids])
        assert network(tokens, torch.ones_like(tokens, dtype=torch.bool)).argmax() == label


@torch.no_grad()
def test_the_predictor_starts_with_a_look_up_of_headers() -> None:
    tokenizer = build_tokenizer(domain_words(), 4096)
    embeddings = torch.randn(len(tokenizer), 100, generator=torch.manual_seed(0))
    network = CrossAttentionClassifier(Shape(len(tokenizer), 25)).eval()
    (count,) = tokenizer.encode("count", add_special_tokens=False)
    initialise(network, embeddings, count, seed=0)
    scene = "sector s1 count n2 : o5 s1 car sector s7 count n4 : o6 s7 bus list s7<ans>"
    tokens = torch.tensor([tokenizer.encode(scene, add_special_tokens=False)])
    attended: list[torch.Tensor] = []
    network.cross.output.register_forward_pre_hook(lambda _, args: attended.append(args[0]))
    network(tokens, torch.ones_like(tokens, dtype=torch.bool))
    # Values are the tokens' own embeddings: what the last sector's name found is its number.
    found = torch.cosine_similarity(attended[0][0, -2], network.embedding.weight, dim=-1)
    assert tokenizer.convert_ids_to_tokens(int(found.argmax())) == "▁n4"
