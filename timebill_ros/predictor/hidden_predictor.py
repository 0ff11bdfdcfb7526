# SPDX-License-Identifier: Apache-2.0
"""A length predictor that reads the target's own hidden state at the end of prefill.

As EGTP (arXiv 2602.11812) has it: no second model, and nothing that runs beside prefill. What the
target has made of the prompt's last token tells how long its answer will be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import Buckets, read_buckets, read_config, read_integer
from timebill_ros.predictor.errors import PredictorIncomplete

STATE_MODEL_TYPE = "timebill_hidden_state"
_WEIGHTS = "model.safetensors"
_DIMENSIONS = {"mean": 1, "scale": 1, "weight": 2, "bias": 1}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class HiddenStatePredictor:
    """A linear classifier over buckets.

    Attributes:
        buckets: what its classes mean.
        layer: whose state it reads, counted from 1.
        mean: of the states that it was trained on, [h].
        scale: their standard deviations, [h].
        weight: [classes, h].
        bias: [classes].
    """

    buckets: Buckets
    layer: int
    mean: Array
    scale: Array
    weight: Array
    bias: Array

    @property
    def width(self) -> int:
        """Numbers of a state, h."""
        return len(self.mean)

    def predict(self, state: Array) -> LengthDistribution:
        """P(bucket) of the response length, from the prompt's last state [h]."""
        logits = self.weight @ ((state - self.mean) / self.scale) + self.bias
        weights = np.exp((logits - logits.max()).astype(np.float64))
        return LengthDistribution(weights / weights.sum(), self.buckets.size)


def save(folder: Path, predictor: HiddenStatePredictor, provenance: dict[str, Any]) -> None:
    """Write config.json and safetensors; ``provenance`` says what it was trained for and how."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": STATE_MODEL_TYPE,
        "bucket_size": predictor.buckets.size,
        "longest_response": predictor.buckets.longest_response,
        "layer": predictor.layer,
        **provenance,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    arrays = {name: np.asarray(getattr(predictor, name), np.float32) for name in _DIMENSIONS}
    save_file(arrays, folder / _WEIGHTS)


def load(folder: Path) -> HiddenStatePredictor:
    """Load what ``save`` wrote.

    Raises:
        PredictorError: see ``read_config`` and ``read_buckets``; ``PredictorIncomplete`` also when
            the weights do not fit together.
    """
    config = read_config(folder)
    try:
        arrays = load_file(folder / _WEIGHTS)
        fault = _fault(arrays)
    except (OSError, SafetensorError) as error:
        fault = str(error)
    if fault:
        raise PredictorIncomplete(folder, f"{_WEIGHTS} cannot be used ({fault})")
    classes = len(arrays["bias"])
    buckets = read_buckets(folder, config, classes)
    layer = read_integer(folder, config, "layer")
    return HiddenStatePredictor(buckets, layer, **{name: arrays[name] for name in _DIMENSIONS})


def _fault(arrays: dict[str, NDArray[Any]]) -> str:
    """Why these are not a predictor's weights; "" where they are."""
    for name, dimensions in _DIMENSIONS.items():
        array = arrays.get(name)
        if array is None or array.ndim != dimensions or array.dtype != np.float32:
            return f"{name} is not there in float32 with {dimensions} dimensions"
        if not np.isfinite(array).all():
            return f"{name} is not finite"
    classes, width = arrays["weight"].shape
    if [arrays[name].shape for name in ("mean", "scale", "bias")] != [
        (width,),
        (width,),
        (classes,),
    ]:
        return "the shapes do not fit together"
    return "" if (arrays["scale"] > 0.0).all() else "a scale is not above 0"
