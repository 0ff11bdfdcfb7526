# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape
from timebill_ros.training.embedded.lengths import TaskPair, outputs_of, pad, train
from timebill_ros.training.embedded.train_predictor import cross_entropy
from timebill_ros.training.predictor.baselines import buckets
from timebill_ros.workload.tasks import Family

CLASSES = buckets(10, 60)
# What the last token's other occurrence is followed by tells the length.
PAIRS = [
    TaskPair((7, 1, 2, 3, 4, 5, 7), 10, Family.LIST),
    TaskPair((9, 9, 7, 2, 2, 3, 4, 5, 7), 50, Family.LIST),
] * 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make small steps slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def untrained() -> LookUpNetwork:
    torch.manual_seed(0)
    return LookUpNetwork(Shape(12, CLASSES.count, 10, hidden=8, tail=2))


def test_padding_is_on_the_left_and_marked() -> None:
    tokens, valid = pad([TaskPair((5,), 1, Family.LIST), TaskPair((6, 7, 8), 1, Family.LIST)])
    assert tokens.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert valid.tolist() == [[False, False, True], [True, True, True]]


def test_training_tells_two_prompts_apart_and_repeats() -> None:
    runs = []
    for _ in range(2):
        network = untrained()
        loss = partial(cross_entropy, CLASSES)
        runs.append(list(train(network, PAIRS, loss, steps=300, seed=0)))
    assert runs[0] == runs[1]
    assert outputs_of(network, PAIRS[:2]).argmax(1).tolist() == [0, 4]


def test_the_loss_is_that_of_the_right_classes() -> None:
    outputs = torch.full((2, CLASSES.count), -50.0)
    outputs[0, 0] = outputs[1, 4] = 50.0
    assert cross_entropy(CLASSES, outputs, [10, 41]).item() == pytest.approx(0.0)
    assert cross_entropy(CLASSES, outputs, [11, 41]).item() == pytest.approx(50.0)
