# SPDX-License-Identifier: Apache-2.0
"""What all predictor checkpoints share: a directory, safetensors, buckets and calibration.

Buckets and calibration are in config.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timebill_ros.budget.calibration import Calibration
from timebill_ros.predictor.errors import (
    BucketMismatch,
    PredictorIncomplete,
    PredictorNotFound,
    PredictorNotSafetensors,
)


@dataclass(frozen=True)
class Buckets:
    """Buckets of ``size`` tokens (B) up to the ``longest_response`` (N_model)."""

    size: int
    longest_response: int

    @property
    def count(self) -> int:
        """Number of classes, ceil(N_model / B)."""
        return -(-self.longest_response // self.size)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a checkpoint directory that holds safetensors.

    Raises:
        PredictorNotFound: no such directory.
        PredictorNotSafetensors: no safetensors in it.
        PredictorIncomplete: no config.json, or not a JSON object.
    """
    if not folder.is_dir():
        raise PredictorNotFound(folder)
    if not any(folder.glob("*.safetensors")):
        raise PredictorNotSafetensors(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PredictorIncomplete(folder, "config.json is missing") from error
    except ValueError as error:
        raise PredictorIncomplete(folder, f"config.json cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise PredictorIncomplete(folder, "config.json is not a JSON object")
    return config


def read_buckets(folder: Path, config: dict[str, Any], classes: int) -> Buckets:
    """The buckets that ``config`` describes, checked against the model's number of classes.

    Raises:
        PredictorIncomplete: ``bucket_size`` or ``longest_response`` is missing or not positive.
        BucketMismatch: they do not make ``classes`` buckets.
    """
    buckets = Buckets(
        read_integer(folder, config, "bucket_size"),
        read_integer(folder, config, "longest_response"),
    )
    if buckets.count != classes:
        raise BucketMismatch(folder, classes, buckets.longest_response, buckets.size)
    return buckets


def read_integer(folder: Path, config: dict[str, Any], key: str) -> int:
    """A positive integer of ``config``. Raises ``PredictorIncomplete`` if it is not one."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PredictorIncomplete(folder, f"config.json: {key} is {value!r}, not an integer >= 1")
    return value


def other_target(folder: Path, config: dict[str, Any], target_id: str, target: str) -> str | None:
    """What to say where a predictor was trained for another target; None where it was not.

    Args:
        folder: the predictor's checkpoint.
        config: its config.json; without a ``target`` nothing is known, and nothing said.
        target_id: name of the target at hand.
        target: its fingerprint.
    """
    trained_for = config.get("target")
    if trained_for in (None, target):
        return None
    return (
        f"predictor {folder} was trained for the target {config.get('target_id', 'unnamed')} "
        f"(fingerprint {trained_for}), but this is {target_id} (fingerprint {target}): the lengths "
        "that it predicts are another model's; collect this one's and train on them"
    )


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
