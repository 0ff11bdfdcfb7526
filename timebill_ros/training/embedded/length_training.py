# SPDX-License-Identifier: Apache-2.0
"""The training loop that all length predictors over the target's tokens share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from timebill_ros.training.embedded.lengths import Pair

PROMPTS_PER_STEP = 32
PEAK_RATE = 4e-3
WARM_UP_SHARE = 0.05
WEIGHT_DECAY = 0.02

Loss = Callable[[Tensor, Sequence[int]], Tensor]
"""Of a network's outputs [batch, classes] and the true lengths N [batch]."""


def train(
    network: nn.Module,
    pairs: Sequence[Pair],
    loss: Loss,
    *,
    steps: int,
    seed: int,
    peak_rate: float = PEAK_RATE,
) -> Iterator[float]:
    """Train ``network`` in place; yields the loss of every step.

    The learning rate rises to ``peak_rate``, then falls linearly to 0. A step's prompts have
    similar lengths, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    by_length = sorted(pairs, key=lambda pair: len(pair.prompt_ids))
    last_start = max(0, len(by_length) - PROMPTS_PER_STEP)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    network.train().requires_grad_(True)
    for step in range(1, steps + 1):
        share = min(1.0, step / (WARM_UP_SHARE * steps), 1.0 - (step - 1) / steps)
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * share
        start = int(rng.integers(0, last_start + 1))
        batch = by_length[start : start + PROMPTS_PER_STEP]
        error = loss(network(*pad(batch)), [pair.response_tokens for pair in batch])
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield error.item()


@torch.inference_mode()
def outputs_of(network: nn.Module, pairs: Sequence[Pair]) -> Tensor:
    """The network's outputs [pairs, classes], in the order of ``pairs``."""
    network.eval()
    return torch.cat([network(*pad([pair])) for pair in pairs])


def pad(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Tokens [batch, length], padded on the left, and where they are not padding."""
    longest = max(len(pair.prompt_ids) for pair in pairs)
    tokens = torch.zeros(len(pairs), longest, dtype=torch.long)
    valid = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for i, pair in enumerate(pairs):
        tokens[i, longest - len(pair.prompt_ids) :] = torch.tensor(pair.prompt_ids)
        valid[i, longest - len(pair.prompt_ids) :] = True
    return tokens, valid
