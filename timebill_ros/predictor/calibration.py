# SPDX-License-Identifier: Apache-2.0
"""The calibration of a predictor's checkpoint: under ``calibration`` in its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from timebill_ros.budget.calibration import Calibration
from timebill_ros.predictor.checkpoint import read_config
from timebill_ros.predictor.errors import PredictorIncomplete

KEY = "calibration"

# Enough for a probability, and legible.
_DIGITS = 6


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a checkpoint directory; None where it has none.

    Raises:
        PredictorError: see ``read_config``; ``PredictorIncomplete`` also for a calibration that is
            not as ``write_calibration`` writes it.
    """
    entry = read_config(folder).get(KEY)
    if entry is None:
        return None
    try:
        return _decoded(entry)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise PredictorIncomplete(folder, f"config.json: {KEY}: {reason}") from error


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Add the calibration to a checkpoint's config.json, in the place of one that is there.

    Raises:
        PredictorError: see ``read_config``.
    """
    config = read_config(folder) | {KEY: _encoded(calibration)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _encoded(calibration: Calibration) -> dict[str, Any]:
    return {
        "pairs": calibration.pairs,
        "levels": calibration.levels.tolist(),
        "scores": [float(f"{score:.{_DIGITS}g}") for score in calibration.scores],
    }


def _decoded(entry: Any) -> Calibration:
    if not isinstance(entry, dict):
        raise TypeError("it is not a JSON object")
    return Calibration(
        pairs=int(entry["pairs"]),
        levels=np.array(entry["levels"], dtype=np.float64),
        scores=np.array(entry["scores"], dtype=np.float64),
    )
