# SPDX-License-Identifier: Apache-2.0
"""How well a predictor's lengths match those of collected pairs."""

from __future__ import annotations

from collections.abc import Sequence

from timebill_ros.embedded.lengths import Pair
from timebill_ros.predictor.length_predictor import LengthPredictor
from timebill_ros.predictor.quality import LengthQuality, length_quality


def measure(predictor: LengthPredictor, pairs: Sequence[Pair], max_tokens: int) -> LengthQuality:
    """Predict every pair's length from its tokens, and compare."""
    predicted = [predictor.predict("", pair.prompt_ids, None) for pair in pairs]
    return length_quality(predicted, [pair.response_tokens for pair in pairs], max_tokens)
