# SPDX-License-Identifier: Apache-2.0
"""Loading a length predictor, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from timebill_ros.predictor import embedded_predictor, sequence_classifier
from timebill_ros.predictor.checkpoint import read_config
from timebill_ros.predictor.length_predictor import LengthPredictor


def load_predictor(
    folder: str | Path, *, device: str = "cpu", threads: int | None = None
) -> LengthPredictor:
    """Load a predictor's checkpoint directory; ``model_type`` in its config.json tells the kind.

    Args:
        folder: the directory; safetensors only.
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads of one prediction; None leaves the calling thread's number.

    Raises:
        PredictorError: one of its subclasses says what is wrong with the checkpoint.
    """
    path = Path(folder).expanduser()
    kind = read_config(path).get("model_type")
    room = embedded_predictor if kind == embedded_predictor.MODEL_TYPE else sequence_classifier
    predictor: LengthPredictor = room.load(path, device=device, threads=threads)
    return predictor
