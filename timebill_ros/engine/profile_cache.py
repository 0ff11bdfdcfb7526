# SPDX-License-Identifier: Apache-2.0
"""Keeping a profile in a file, and trusting the file only as far as it can be checked."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.fit import Measurement, ProfilePoints, fit_time_model
from timebill_ros.engine.protocol import MeasurableEngine

_LOG = logging.getLogger(__name__)

Environment = Mapping[str, str | int]
"""Everything that a profile depends on, by name."""

_FORMAT = 2  # of the file; one of another format is not looked for
_PACKAGES = ("torch", "transformers", "llguidance", "timebill_ros")
_WORST_MAPE = 0.25  # a quiet machine gives a few per cent; at more, deadlines are missed by guesses
_LONGEST = 3600.0  # s; no stage of a request takes longer


def describe_environment(engine: MeasurableEngine, predictor: str = "") -> Environment:
    """What a profile of this engine depends on.

    ``predictor`` identifies the length predictor that is profiled with it; empty without one.
    """
    return {
        "format": _FORMAT,
        "predictor": predictor,
        "cores": os.cpu_count() or 0,
        **engine.traits,
        **{name: _version(name) for name in _PACKAGES},
    }


def recall_or_measure(
    folder: Path, environment: Environment, measure: Callable[[], ProfilePoints]
) -> ProfilePoints:
    """The profile kept for this environment, or else a new one, which is then kept.

    A file that is stale, damaged or implausible is logged and measured again. A profile that does
    not predict its own held-out points is used, with a warning, but not kept: the next start
    measures again. A folder that cannot be written costs the next start its time, nothing more.

    Raises:
        ProfileFitError: no time model follows from what was measured.
    """
    path = folder / f"profile-{_key(environment)}.json"
    points = _recall(path, environment)
    if points is not None:
        return points
    points = measure()
    if misfit := _misfit(points):
        _LOG.warning(
            "%s: the machine was busy, or the model's times have a knee; "
            "the profile is used now but not kept, and the next start measures again",
            misfit,
        )
        return points
    try:
        _keep(path, environment, points)
    except OSError as error:
        _LOG.warning("the profile cannot be kept in %s: %s", path, error)
    return points


def _recall(path: Path, environment: Environment) -> ProfilePoints | None:
    if not path.exists():
        _LOG.info("no profile of this model and machine yet (%s)", path)
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["environment"] != environment:
            raise ValueError("it was measured in another environment")
        points = ProfilePoints(
            **{stage: _measurements(stage, content["points"][stage]) for stage in _stages()}
        )
        if misfit := _misfit(points):
            raise ValueError(misfit)
    except (OSError, ValueError, KeyError, TypeError, ProfileFitError) as error:
        _LOG.warning("profile %s is not used, measuring again: %s", path, _reason(error))
        return None
    _LOG.info("profile recalled from %s", path)
    return points


def _misfit(points: ProfilePoints) -> str:
    """The stage whose held-out points the fit misses, and by how much; empty if it is good."""
    fit = fit_time_model(points)
    for stage, error in (("prefill", fit.prefill_mape), ("step", fit.step_mape)):
        if error > _WORST_MAPE:
            return f"the time model misses held-out {stage} times by {error:.0%} on average"
    return ""


def _measurements(stage: str, rows: Any) -> tuple[Measurement, ...]:
    points = tuple(Measurement(int(row["tokens"]), float(row["seconds"])) for row in rows)
    for point in points:
        if point.tokens < 1 or not (math.isfinite(point.seconds) and 0 < point.seconds < _LONGEST):
            raise ValueError(f"{stage} of {point.tokens} tokens in {point.seconds} s")
    return points


def _keep(path: Path, environment: Environment, points: ProfilePoints) -> None:
    """Write the file whole or not at all, whoever else writes it."""
    content = {"environment": dict(environment), "points": asdict(points)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False
    ) as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def _key(environment: Environment) -> str:
    text = json.dumps(dict(environment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stages() -> tuple[str, ...]:
    return tuple(field.name for field in fields(ProfilePoints))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
