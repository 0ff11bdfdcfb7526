# SPDX-License-Identifier: Apache-2.0
"""What a length predictor may read of the model itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class HiddenStates:
    """What the model has made of the latest token, after some of its layers.

    A length predictor may read it: at the prompt's end it holds what the answer will be about, and
    it costs nothing beside the prefill.

    Args:
        layers: numbers of layers, counted from 1; the last one's state is that after the final
            norm, as transformers' ``hidden_states`` has it.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self._latest: dict[int, Tensor] = {}

    def record(self, layer: int, x: Tensor) -> None:
        """Keep the residual stream of one token, or of one each of n sequences, [n, h] or [h].

        ``layer`` counts from 0, as where layers run.
        """
        if layer + 1 in self.layers:
            self._latest[layer + 1] = x.reshape(-1, x.shape[-1]).clone()

    def states(self) -> Tensor:
        """Of the latest token of each of n sequences, float32 [n, layers, h]."""
        return torch.stack([self._latest[layer] for layer in self.layers], dim=1).float()
