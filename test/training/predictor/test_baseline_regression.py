# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape
from timebill_ros.training.predictor.baselines import Regression


@torch.no_grad()
def test_the_network_s_length_is_corrected() -> None:
    torch.manual_seed(0)
    network = LookUpNetwork(Shape(50, 7, 16, hidden=8, tail=4)).eval()
    regression = Regression(network).eval()
    tokens, valid = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool)
    regression.correction.weight.zero_()
    regression.correction.bias.fill_(2.0)
    _, length = network.summary(tokens, valid)
    torch.testing.assert_close(regression(tokens, valid), length[:, None] + 2.0)
