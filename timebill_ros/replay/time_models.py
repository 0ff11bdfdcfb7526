# SPDX-License-Identifier: Apache-2.0
"""The time model that a simulation runs on: from a file, or as measured on this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.fit import (
    ProfilePoints,
    fit_time_model,
    read_measurements,
    read_points,
)
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.replay.recording import BadInput
from timebill_ros.runtime.settings import Settings


def load_time_model(path: Path) -> TimeModel:
    """The time model of a JSON file: its coefficients by name, or a profile that the node kept.

    Raises:
        BadInput: no such file, or one that is neither; by the key that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as failure:
        raise BadInput(f"{path}: no time model can be read: {failure}") from failure
    if not isinstance(content, dict):
        raise BadInput(f"{path}: no time model: it is no JSON object")
    try:
        if "points" in content:
            return fit_time_model(_points(content)).model
        return _coefficients(content)
    except KeyError as missing:
        raise BadInput(f"{path}: no time model: {missing} is missing") from missing
    except (ValueError, TypeError, AttributeError, ProfileFitError) as failure:
        raise BadInput(f"{path}: no time model: {failure}") from failure


def recalled_profile(settings: Settings) -> Path:
    """The newest profile that is kept on this machine of the settings' model.

    Raises:
        BadInput: there is none; the message says where it was looked for, and how to get one.
    """
    # To know the model by its content pulls in torch.
    from timebill_ros.engine.fingerprint import checkpoint_digest
    from timebill_ros.runtime.loading import model_folder, profile_folder

    folder, model = profile_folder(settings), Path(model_folder(settings))
    digest = checkpoint_digest(model) if (model / "config.json").exists() else None
    kept = []
    for path in folder.glob("profile-*.json"):
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))["environment"]["checkpoint"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if digest in (None, measured):
            kept.append(path)
    if not kept:
        raise BadInput(
            f"no profile of the model {settings.model!r} is kept in {folder}: measure one with "
            "`timebill_ros profile`, or give --time-model FILE"
        )
    return max(kept, key=lambda path: path.stat().st_mtime)


def _points(content: Mapping[str, Any]) -> ProfilePoints:
    """A kept profile's points, with those of the predictor that was measured last."""
    points = read_points(content["points"])
    for rows in content["predictors"].values():
        points = replace(points, predictor=read_measurements(rows))
    return points


def _coefficients(content: Mapping[str, Any]) -> TimeModel:
    names = {field.name: field for field in fields(TimeModel)}
    if unknown := content.keys() - names.keys():
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    values: dict[str, Any] = {
        name: _number(name, value) for name, value in content.items() if name != "predictor"
    }
    for name in ("a", "b", "c", "p", "q"):
        values[name] = values[name] if name in values else content[name]
    if (predictor := content.get("predictor")) is not None:
        values["predictor"] = Quadratic(
            **{name: _number(f"predictor.{name}", predictor[name]) for name in ("a", "b", "c")}
        )
    return TimeModel(**values)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number: {value!r}")
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} must be finite and not negative, not {value}")
    return float(value)
