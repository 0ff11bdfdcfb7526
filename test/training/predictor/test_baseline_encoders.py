# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from timebill_ros.training.predictor.baselines import POSITIONS, Kept, bert, distilbert

LONG = torch.randint(3, 20, (1, POSITIONS + 100), generator=torch.manual_seed(0))


@pytest.fixture(params=[bert, distilbert])
def build(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return request.param


def outputs(network: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(tokens, torch.ones_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize("kept", Kept)
def test_only_one_end_of_a_long_prompt_is_read(build: Callable[..., nn.Module], kept: Kept) -> None:
    network = build(20, 5, seed=0, kept=kept)
    ends = {Kept.HEAD: LONG[:, :POSITIONS], Kept.TAIL: LONG[:, -POSITIONS:]}
    for end, tokens in ends.items():
        same = torch.allclose(outputs(network, LONG), outputs(network, tokens), atol=1e-6)
        assert same == (end is kept)


def test_padding_on_the_left_changes_nothing(build: Callable[..., nn.Module]) -> None:
    network, prompt = build(20, 5, seed=0, kept=Kept.HEAD), LONG[:, :30]
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), prompt], dim=1)
    valid = torch.arange(37)[None] >= 7
    with torch.no_grad():
        found = network.eval()(padded, valid)
    assert found.shape == (1, 5)
    torch.testing.assert_close(found, outputs(network, prompt))


def test_the_seed_decides_the_weights(build: Callable[..., nn.Module]) -> None:
    found = [outputs(build(20, 5, seed=seed, kept=Kept.HEAD), LONG) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
