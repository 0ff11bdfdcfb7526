# SPDX-License-Identifier: Apache-2.0
"""Keeping a profile in a file, and trusting the file only as far as it can be checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.fit import (
    Measurement,
    ProfilePoints,
    fit_predictor,
    fit_time_model,
    read_measurements,
    read_points,
)
from timebill_ros.engine.protocol import MeasurableEngine

Environment = Mapping[str, str | int]
"""Everything that a measurement depends on, by name."""

# What reading a file may raise that is not the one that was written: RecursionError for nesting
# that is too deep, OverflowError for numbers that are too large.
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError,
)  # fmt: skip


def kept_path(folder: Path, subject: str, environment: Environment) -> Path:
    """Where what was measured in this environment is kept."""
    text = json.dumps(dict(environment), sort_keys=True)
    return folder / f"{subject}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read_kept(path: Path, environment: Environment) -> dict[str, Any]:
    """The content of a file that was written for this environment; one of ``DAMAGED`` otherwise."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["environment"] != environment:
        raise ValueError("it was measured in another environment")
    return dict(content)


def write_kept(path: Path, environment: Environment, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all, whoever else writes it.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False
    ) as file:
        part = Path(file.name)
        try:
            json.dump({"environment": dict(environment), **content}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


_LOG = logging.getLogger(__name__)

RECIPE = 5
"""What a profile is of: to be raised with every change of what is timed, or of how it is timed.

The key of a kept profile holds it, so that those of another recipe are measured again; the version
of the package does not change with every such change. 5: selection is timed too.
"""

_FORMAT = 3  # of the file; one of another format is not looked for
_PACKAGES = ("torch", "transformers", "llguidance", "timebill_ros")


def describe_environment(engine: MeasurableEngine) -> Environment:
    """What a profile of this engine depends on."""
    return {
        "format": _FORMAT,
        "cores": os.cpu_count() or 0,
        "waiting": os.environ.get("OMP_WAIT_POLICY", ""),
        **engine.traits,
        **{name: _version(name) for name in _PACKAGES},
    }


@dataclass(frozen=True)
class PredictorProfile:
    """How to measure a length predictor, and what tells its times from another's."""

    name: str
    measure: Callable[[], tuple[Measurement, ...]]


@dataclass(frozen=True)
class _Kept:
    """What a file holds: one model's points, and those of the predictors used with it."""

    points: ProfilePoints
    predictors: Mapping[str, tuple[Measurement, ...]]


def recall_or_measure(
    folder: Path,
    environment: Environment,
    measure: Callable[[], ProfilePoints],
    predictor: PredictorProfile | None = None,
    *,
    recipe: int = RECIPE,
) -> ProfilePoints:
    """The profile kept for this environment and recipe, or else a new one, which is then kept.

    A predictor that is not in it is measured and added; the rest stays. A file that is stale,
    damaged or implausible is logged and measured again. A profile that was taken on a busy machine
    is kept as well, since a machine that is busy at one start will be at the next: it is marked by
    its own figures, and every start warns of it. A folder that cannot be written costs the next
    start its time, nothing more.

    Raises:
        ProfileFitError: no time model follows from what was measured.
    """
    environment = {**environment, "recipe": recipe}
    path = kept_path(folder, "profile", environment)
    kept = recalled = _recall(path, environment)
    if kept is None:
        points = measure()
        fit_time_model(points)
        kept = _Kept(points, {})
    if predictor is not None and predictor.name not in kept.predictors:
        measured = predictor.measure()
        fit_predictor(measured)
        kept = replace(kept, predictors={**kept.predictors, predictor.name: measured})
    if kept is not recalled:
        try:
            write_kept(path, environment, asdict(kept))
        except OSError as error:
            _LOG.warning("the profile cannot be kept in %s: %s", path, error)
    if predictor is None:
        return kept.points
    return replace(kept.points, predictor=kept.predictors[predictor.name])


def _recall(path: Path, environment: Environment) -> _Kept | None:
    if not path.exists():
        _LOG.info("no profile of this model and machine yet (%s)", path)
        return None
    try:
        content = read_kept(path, environment)
        predictors = {
            str(name): read_measurements(rows) for name, rows in content["predictors"].items()
        }
        kept = _Kept(read_points(content["points"]), predictors)
        fit_time_model(kept.points)
        for measured in predictors.values():
            fit_predictor(measured)
    except (*DAMAGED, ProfileFitError) as error:
        _LOG.warning("profile %s is not used, measuring again: %s", path, _reason(error))
        return None
    _LOG.info("profile recalled from %s", path)
    return kept


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
