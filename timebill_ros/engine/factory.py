# SPDX-License-Identifier: Apache-2.0
"""From settings to an engine."""

from __future__ import annotations

import os
from dataclasses import replace

from timebill_ros.engine.checkpoint import Checkpoint
from timebill_ros.engine.protocol import MeasurableEngine
from timebill_ros.engine.transformer_engine import EngineSettings, TransformerEngine

_SMALL_MODEL = 50_000_000  # weights


def make_engine(checkpoint: Checkpoint, settings: EngineSettings) -> MeasurableEngine:
    """The engine of a loaded model.

    Args:
        checkpoint: the model.
        settings: with ``max_context`` 0 for all of the model's positions, and ``threads`` 0 for
            ``default_threads``.

    Raises:
        SettingError, UnsupportedModel: see ``TransformerEngine``.
    """
    chosen = replace(
        settings,
        max_context=settings.max_context or checkpoint.max_positions,
        threads=settings.threads or default_threads(checkpoint),
    )
    return TransformerEngine(checkpoint, chosen)


def default_threads(checkpoint: Checkpoint) -> int:
    """CPU threads where none are set: half of the cores that this process may use, at least one.

    A robot's machine has other work, and threads that wait at a barrier for one that was
    preempted cost far more than they bring. One for a small model, whose operations are too short
    to be shared at all.
    """
    if checkpoint.model.num_parameters() < _SMALL_MODEL:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // 2)
