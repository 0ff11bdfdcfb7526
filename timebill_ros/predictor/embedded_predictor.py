# SPDX-License-Identifier: Apache-2.0
"""A small length predictor that reads the target's own tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import Buckets, read_buckets, read_config, read_integer
from timebill_ros.predictor.errors import PredictorIncomplete, TargetMismatch
from timebill_ros.predictor.look_up_network import LookUpNetwork, Shape
from timebill_ros.predictor.truncation import keep_head_and_tail

MODEL_TYPE = "timebill_look_up"
_WEIGHTS = "model.safetensors"


class EmbeddedPredictor:
    """A ``LengthPredictor`` over the target's tokens.

    Args:
        network: the classifier, on the device that it is to run on.
        buckets: what its classes mean.
        threads: CPU threads of one prediction; None leaves the calling thread's number.
    """

    def __init__(self, network: LookUpNetwork, buckets: Buckets, threads: int | None) -> None:
        self.bucket_size = buckets.size
        self._network = network.eval().requires_grad_(False)
        self._threads = threads

    @torch.inference_mode()
    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        """P(bucket); reads ``prompt_ids`` only. An empty prompt reads as one token 0.

        Raises:
            TargetMismatch: a token is outside the vocabulary.
        """
        tokens = keep_head_and_tail(prompt_ids, max_input) or [0]
        vocabulary = self._network.shape.vocabulary
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise TargetMismatch(next(t for t in tokens if not 0 <= t < vocabulary), vocabulary)
        if self._threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self._threads)  # per calling thread
        device = self._network.embedding.weight.device
        batch = torch.tensor([tokens], device=device)
        logits = self._network(batch, torch.ones_like(batch, dtype=torch.bool))
        probabilities = logits[0].double().softmax(-1).cpu().numpy()
        return LengthDistribution(probabilities, self.bucket_size)


def save(
    folder: Path, network: LookUpNetwork, buckets: Buckets, provenance: dict[str, Any]
) -> None:
    """Write config.json and safetensors; ``provenance`` says what it was trained for and how."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "bucket_size": buckets.size,
        "longest_response": buckets.longest_response,
        **asdict(network.shape),
        **provenance,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(network.state_dict(), folder / _WEIGHTS)


def load(folder: Path, *, device: str, threads: int | None) -> EmbeddedPredictor:
    """Load what ``save`` wrote.

    Raises:
        PredictorError: see ``read_config`` and ``read_buckets``; ``PredictorIncomplete`` also when
            the weights do not fit the configuration.
    """
    config = read_config(folder)
    sizes = {key: read_integer(folder, config, key) for key in Shape.__dataclass_fields__}
    shape = Shape(**sizes)
    buckets = read_buckets(folder, config, shape.classes)
    network = LookUpNetwork(shape)
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise PredictorIncomplete(folder, f"{_WEIGHTS} cannot be used ({reason})") from error
    return EmbeddedPredictor(network.to(device), buckets, threads)
