# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from timebill_ros.engine.checkpoint import Checkpoint, checkpoint_digest
from timebill_ros.engine.decoder import supports
from timebill_ros.engine.device import device_name
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.speed_choice import (
    SpeedChoice,
    measure_speeds,
    recall_or_choose,
    thread_numbers,
    usable_cores,
)
from timebill_ros.engine.transformer_engine import TransformerEngine

_SMALL_MODEL = 50_000_000  # weights
_FORMAT = 1  # of what a choice depends on


def make_engine(
    checkpoint: Checkpoint, settings: EngineSettings, choices: Path | None = None
) -> TransformerEngine:
    """The engine of a loaded model.

    Args:
        checkpoint: the model.
        settings: with ``max_context`` 0 for all of the model's positions; with ``threads`` 0 and
            ``weights`` None for the fastest, see ``fastest``.
        choices: folder where what was chosen is kept; None to choose anew.

    Raises:
        SettingError, UnsupportedModel: see ``TransformerEngine``.
    """
    chosen = replace(settings, max_context=settings.max_context or checkpoint.max_positions)
    if not settings.threads or settings.weights is None:
        fast = fastest(checkpoint, settings, choices)
        weights = fast.weights if settings.weights is None else settings.weights
        chosen = replace(chosen, threads=settings.threads or fast.threads, weights=weights)
    return TransformerEngine(checkpoint, chosen)


def fastest(checkpoint: Checkpoint, settings: EngineSettings, choices: Path | None) -> SpeedChoice:
    """The threads and weights that this machine is fastest with, by measurement.

    One thread and the weights as they are for a small model, whose operations are too short to be
    shared and whose weights the caches hold, and on other devices than CPUs. Weights that are
    rounded, to bfloat16, are tried for float32 only, and only where the lean decoder runs them.
    """
    model = checkpoint.model
    if checkpoint.device.type != "cpu" or model.num_parameters() < _SMALL_MODEL:
        return SpeedChoice(settings.threads or 1, "", "")
    cores = usable_cores()
    threads = [settings.threads] if settings.threads else thread_numbers(cores)
    kinds = [""]
    rounds = checkpoint.dtype == torch.float32 and settings.lean and supports(model)
    if settings.weights is None and rounds:
        kinds = ["float32", "bfloat16"]

    def measure() -> SpeedChoice:
        return measure_speeds(model, chunk=settings.chunk, threads=threads, kinds=kinds)

    if choices is None:
        return measure()
    environment: dict[str, str | int] = {
        "format": _FORMAT,
        "checkpoint": checkpoint_digest(checkpoint.folder),
        "device": device_name(checkpoint.device),
        "dtype": str(checkpoint.dtype),
        "cores": cores,
        "threads": settings.threads,
        "kinds": " ".join(kinds),
        "chunk": settings.chunk,
        "torch": torch.__version__,
    }
    return recall_or_choose(choices, environment, measure)
