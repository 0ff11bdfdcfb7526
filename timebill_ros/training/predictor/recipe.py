# SPDX-License-Identifier: Apache-2.0
"""How a length predictor is trained."""

from __future__ import annotations

from dataclasses import dataclass

from timebill_ros.budget.errors import SettingError


@dataclass(frozen=True)
class Recipe:
    """How a predictor is trained.

    Attributes:
        backbone: name of the model that it starts from.
        backbone_fingerprint: identifies that model by content.
        bucket_size: B, tokens.
        max_input: longest input, the backbone's tokens; of longer prompts head and tail stay.
        epochs: passes over the training part.
        batch: prompts per step and device.
        learning_rate: at its peak, after a short warm-up; falls linearly to 0.
        seed: of split, order and the new head's weights.
        calibration, held_out: shares of the pairs that are not trained on.
    """

    backbone: str
    backbone_fingerprint: str
    bucket_size: int = 16
    max_input: int = 2048
    epochs: float = 3.0
    batch: int = 16
    learning_rate: float = 2e-5
    seed: int = 0
    calibration: float = 0.1
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Raise ``SettingError`` for what nothing can be trained with."""
        for name in ("bucket_size", "max_input", "batch"):
            if getattr(self, name) < 1:
                raise SettingError(name, getattr(self, name), ">= 1")
        for name in ("epochs", "learning_rate"):
            if not getattr(self, name) > 0.0:
                raise SettingError(name, getattr(self, name), "above 0")
