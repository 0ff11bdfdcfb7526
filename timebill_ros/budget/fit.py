# SPDX-License-Identifier: Apache-2.0
"""Fit the time model to profiled points, and say how well it predicts points it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.time_model import Quadratic, TimeModel


@dataclass(frozen=True)
class Measurement:
    """One profiled point: ``seconds`` spent on ``tokens`` tokens."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class ProfilePoints:
    """All profiled points of one loaded model on one machine.

    Attributes:
        prefill: over N_x, the whole chunked prefill.
        step: over N_kv, one decoding step.
        evict: over N_x, scoring and compaction.
        predictor: over N_p; empty without a predictor.
        structured: over N_x, what a JSON schema adds to one response token; empty for a model whose
            responses cannot be held to one.
    """

    prefill: Sequence[Measurement]
    step: Sequence[Measurement]
    evict: Sequence[Measurement]
    predictor: Sequence[Measurement] = ()
    structured: Sequence[Measurement] = ()


@dataclass(frozen=True)
class TimeModelFit:
    """A time model with its mean absolute percentage errors on held-out points (0.05 = 5 %)."""

    model: TimeModel
    prefill_mape: float
    step_mape: float
    evict_mape: float


def fit_time_model(points: ProfilePoints) -> TimeModelFit:
    """Least squares on every other point (by size, ends included), errors on the rest.

    Residuals are taken relative to the measured time, so that the fit serves short and long
    inputs alike. Coefficients are kept non-negative: a time that falls with its input is noise.

    Raises:
        ProfileFitError: too few points, or times that are not finite and positive.
    """
    prefill, prefill_mape = _fit_and_check("prefill", points.prefill, degree=2)
    step, step_mape = _fit_and_check("step", points.step, degree=1)
    evict, evict_mape = _fit_and_check("evict", points.evict, degree=1)
    predictor = None
    if points.predictor:
        predictor = Quadratic(*_fit_and_check("predictor", points.predictor, degree=2)[0])
    a, b, c = prefill
    p, q = step
    model = TimeModel(
        a=a,
        b=b,
        c=c,
        p=p,
        q=q,
        evict_rate=evict[0],
        evict_base=evict[1],
        q_structured=_constant("structured", points.structured),
        predictor=predictor,
    )
    return TimeModelFit(model, prefill_mape, step_mape, evict_mape)


def mape(predict: Callable[[int], float], held_out: Sequence[Measurement]) -> float:
    """Mean of |predicted - measured| / measured over the held-out points."""
    errors = [abs(predict(m.tokens) - m.seconds) / m.seconds for m in held_out]
    return float(np.mean(errors))


def _constant(stage: str, points: Sequence[Measurement]) -> float:
    """The median of a time that does not depend on the number of tokens; 0 without points."""
    for m in points:
        _check_time(stage, m)
    return float(np.median([m.seconds for m in points])) if points else 0.0


def _check_time(stage: str, m: Measurement) -> None:
    if not (np.isfinite(m.seconds) and m.seconds > 0.0):
        raise ProfileFitError(f"{stage}: {m.seconds} s for {m.tokens} tokens is not a time")


def _fit_and_check(
    stage: str, points: Sequence[Measurement], *, degree: int
) -> tuple[tuple[float, ...], float]:
    """Coefficients, highest power first, and the MAPE on the points that were held out."""
    ordered = sorted(points, key=lambda m: m.tokens)
    fitted, held_out = ordered[::2], ordered[1::2]
    if len({m.tokens for m in fitted}) <= degree or not held_out:
        needed = 2 * degree + 1
        raise ProfileFitError(
            f"{stage}: {len(points)} points are too few, at least {needed} sizes are needed"
        )
    for m in ordered:
        _check_time(stage, m)
    coefficients = _non_negative_least_squares(fitted, degree)
    return coefficients, mape(lambda n: float(np.polyval(coefficients, n)), held_out)


def _non_negative_least_squares(points: Sequence[Measurement], degree: int) -> tuple[float, ...]:
    """Relative least squares; a term that comes out negative is left out and the rest refitted."""
    tokens = np.array([m.tokens for m in points], dtype=np.float64)
    seconds = np.array([m.seconds for m in points], dtype=np.float64)
    scale = tokens.max()
    powers: NDArray[np.int64] = np.arange(degree, -1, -1)
    columns = (tokens[:, None] / scale) ** powers / seconds[:, None]
    kept = np.ones(degree + 1, dtype=bool)
    solution = np.zeros(degree + 1)
    while kept.any():
        solution[:] = 0.0
        solution[kept] = np.linalg.lstsq(columns[:, kept], np.ones(len(points)), rcond=None)[0]
        if (solution >= 0.0).all():
            break
        kept &= solution >= 0.0
    return tuple(float(c) for c in solution / scale**powers)
