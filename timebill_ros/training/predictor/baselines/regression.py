# SPDX-License-Identifier: Apache-2.0
"""Our own network with a regression head in the place of its buckets."""

from __future__ import annotations

from torch import Tensor, nn

from timebill_ros.predictor.look_up_network import LookUpNetwork


class Regression(nn.Module):
    """Predicts one length: the network's own, corrected by a linear function of its features."""

    def __init__(self, network: LookUpNetwork) -> None:
        super().__init__()
        self.network = network
        self.correction = nn.Linear(network.shape.hidden, 1)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Lengths [batch, 1], tokens, of ``tokens`` [batch, length], padded on the left."""
        summary, length = self.network.summary(tokens, valid)
        corrected: Tensor = length[:, None] + self.correction(summary)
        return corrected
