# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape

LONG = list(range(3, 43)) * 3


@pytest.fixture
def network() -> LookUpNetwork:
    torch.manual_seed(1)
    return LookUpNetwork(Shape(50, 7, 16, hidden=8, tail=4)).eval().requires_grad_(False)


def outputs(network: LookUpNetwork, prompt: list[int]) -> Tensor:
    return network(torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.bool))


@pytest.mark.parametrize("prompt", [[9], [9, 8, 7], LONG])
def test_padding_on_the_left_changes_nothing(network: LookUpNetwork, prompt: list[int]) -> None:
    tokens = torch.tensor([[0] * 6 + prompt])
    valid = torch.tensor([[False] * 6 + [True] * len(prompt)])
    torch.testing.assert_close(network(tokens, valid), outputs(network, prompt))


def test_only_what_stands_around_the_same_tokens_counts(network: LookUpNetwork) -> None:
    head = [20] * 10
    reference = outputs(network, [*head, 1, 2, 3, 4])
    far = outputs(network, [21, *head[1:], 1, 2, 3, 4])
    torch.testing.assert_close(far, reference)
    found = outputs(network, [4, 21, *head[2:], 1, 2, 3, 4])
    beside = outputs(network, [4, 22, *head[2:], 1, 2, 3, 4])
    assert not torch.allclose(found, reference)
    assert not torch.allclose(found, beside)


def test_how_often_a_token_occurs_counts(network: LookUpNetwork) -> None:
    # A regular prompt: what stands around every occurrence is the same.
    prompts = [[4, 20, 20, 20, 20, 20, 20] * n + [20, 20, 1, 2, 3, 4] for n in (2, 3)]
    network.look_up.output.weight.zero_()
    network.look_up.feed_forward[-1].weight.zero_()
    assert not torch.allclose(outputs(network, prompts[0]), outputs(network, prompts[1]))


@pytest.mark.parametrize("length", [1, 4, 5, 40])
def test_surroundings_are_a_convolution(length: int) -> None:
    torch.manual_seed(0)
    network, x = LookUpNetwork(Shape(50, 7, 16, hidden=8)), torch.randn(2, length, 8)
    kernel = network.around.T[:, None]
    expected = F.conv1d(F.pad(x.transpose(1, 2), (2, 4)), kernel, groups=8).transpose(1, 2)
    torch.testing.assert_close(network.surroundings_of(x), expected)


def test_buckets_near_the_length_gain_by_sharpness(network: LookUpNetwork) -> None:
    network.out[1].weight.zero_()
    network.out[1].bias.zero_()
    tokens, valid = torch.tensor([LONG]), torch.ones(1, len(LONG), dtype=torch.bool)
    _, length = network.summary(tokens, valid)
    distance = (torch.arange(7) + 0.5 - length / 16) / 2.0
    for logarithm in (-1.0, 1.0):
        network.sharpness.bias.fill_(logarithm)
        near = (-(distance**2) * torch.tensor(logarithm).exp()).softmax(0)
        expected = 0.99 * near + 0.01 / 7
        torch.testing.assert_close(network(tokens, valid)[0].exp(), expected)
