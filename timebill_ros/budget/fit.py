# SPDX-License-Identifier: Apache-2.0
"""Fit the time model to profiled points, and say how well it predicts points it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.time_model import Quadratic, TimeModel

# At more than this a machine was busy, or the model's times have a knee.
_QUIET_MAPE = 0.10
_QUIET_SPREAD = 0.15
_LONGEST = 3600.0  # s; no stage of a request takes longer
_CHUNK_TERMS = 3  # what a chunk's time is linear in
_COMPOSED = 32  # lengths at which equation (4) is fitted to sums of chunks


@dataclass(frozen=True)
class Measurement:
    """One profiled point: ``seconds`` spent on ``tokens`` tokens."""

    tokens: int
    seconds: float


@dataclass(frozen=True)
class ChunkMeasurement:
    """One profiled chunk of a prefill: ``tokens`` tokens behind ``position`` cached ones."""

    position: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ProfilePoints:
    """All profiled points of one loaded model on one machine.

    Attributes:
        prefill: over N_x, the whole chunked prefill. Where there are ``chunks``, these only check.
        step: over N_kv, one decoding step.
        evict: over N_x, scoring and compaction; empty for an engine that does not evict.
        predictor: over N_p; empty without a predictor.
        structured: over N_x, what a JSON schema adds to one response token; empty for a model whose
            responses cannot be held to one.
        drawn: over the vocabulary, what drawing a token adds to taking the likeliest one.
        rank: over N_x, ranking the prompt's passages.
        render: over the tokens that stay, making a prompt of what selection leaves.
        chunks: single chunks, of which a prefill is the sum; empty where only whole ones can be
            timed.
        chunk_size: tokens of a full chunk; 0 without ``chunks``.
        spread: how far single measurements of a point lie from their median, in proportion to it,
            on average. Some hundredths on a quiet machine.
    """

    prefill: Sequence[Measurement]
    step: Sequence[Measurement]
    evict: Sequence[Measurement]
    predictor: Sequence[Measurement] = ()
    structured: Sequence[Measurement] = ()
    drawn: Sequence[Measurement] = ()
    rank: Sequence[Measurement] = ()
    render: Sequence[Measurement] = ()
    chunks: Sequence[ChunkMeasurement] = ()
    chunk_size: int = 0
    spread: float = 0.0

    @property
    def longest_prefill(self) -> int:
        """Tokens up to which prefill was measured, in whole or by its last chunk."""
        whole = (m.tokens for m in self.prefill)
        return max((*whole, *(m.position + m.tokens for m in self.chunks)), default=0)


@dataclass(frozen=True)
class TimeModelFit:
    """A time model with its mean absolute percentage errors on held-out points (0.05 = 5 %).

    Attributes:
        model: what was fitted.
        prefill_mape, step_mape, evict_mape: on points that were not fitted.
        spread: of the profile's rounds, see ``ProfilePoints``.
        longest_prefill: tokens up to which prefill was measured; beyond, it is extrapolated.
    """

    model: TimeModel
    prefill_mape: float
    step_mape: float
    evict_mape: float
    spread: float = 0.0
    longest_prefill: int = 0

    @property
    def disturbance(self) -> str:
        """What says that the machine was busy while it was profiled; empty if nothing does."""
        reasons = [
            f"the time model misses held-out {stage} times by {error:.0%} on average"
            for stage, error in (("prefill", self.prefill_mape), ("step", self.step_mape))
            if error > _QUIET_MAPE
        ]
        if self.spread > _QUIET_SPREAD:
            reasons.append(f"repeated measurements lie {self.spread:.0%} off their median")
        return ", ".join(reasons)


def read_points(content: Mapping[str, Any]) -> ProfilePoints:
    """The points that ``asdict`` made a JSON object of.

    Raises:
        KeyError: a stage is missing.
        ValueError, TypeError: something is no point, or no time that a stage can take.
    """
    size, spread = int(content["chunk_size"]), float(content["spread"])
    chunks = tuple(
        ChunkMeasurement(int(row["position"]), *_point(row)) for row in content["chunks"]
    )
    if size < bool(chunks) or any(m.position < 0 for m in chunks) or not spread >= 0.0:
        raise ValueError(f"chunks of {size} tokens, a spread of {spread}")
    stages = ("prefill", "step", "evict", "predictor", "structured", "drawn", "rank", "render")
    return ProfilePoints(
        **{stage: read_measurements(content[stage]) for stage in stages},
        chunks=chunks,
        chunk_size=size,
        spread=spread,
    )


def read_measurements(rows: Iterable[Mapping[str, Any]]) -> tuple[Measurement, ...]:
    """The points that ``asdict`` made JSON objects of; raises as ``read_points``."""
    return tuple(Measurement(*_point(row)) for row in rows)


def _point(row: Mapping[str, Any]) -> tuple[int, float]:
    tokens, seconds = int(row["tokens"]), float(row["seconds"])
    if tokens < 1 or not (np.isfinite(seconds) and 0.0 < seconds < _LONGEST):
        raise ValueError(f"{tokens} tokens in {seconds} s")
    return tokens, seconds


def fit_time_model(points: ProfilePoints) -> TimeModelFit:
    """Least squares; the errors are of points that were not fitted.

    Prefill is fitted to the chunks, if there are any, and checked on whole prefills. Everything
    else is fitted to every other point (by size, ends included) and checked on the rest. Residuals
    are taken relative to the measured time, so that the fit serves short and long inputs alike.
    Coefficients are kept non-negative: a time that falls with its input is noise.

    Raises:
        ProfileFitError: too few points, or times that are not finite and positive.
    """
    if points.chunks:
        prefill, prefill_mape = _fit_chunks(points)
    else:
        prefill, prefill_mape = _fit_and_check("prefill", points.prefill, degree=2)
    step, step_mape = _fit_and_check("step", points.step, degree=1)
    evict: tuple[float, ...] = (0.0, 0.0)
    evict_mape = 0.0
    if points.evict:
        evict, evict_mape = _fit_and_check("evict", points.evict, degree=1)
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
        q_drawn=_constant("drawn", points.drawn),
        rank=_rate("rank", points.rank),
        render=_rate("render", points.render),
        predictor=fit_predictor(points.predictor) if points.predictor else None,
    )
    return TimeModelFit(
        model, prefill_mape, step_mape, evict_mape, points.spread, points.longest_prefill
    )


def fit_predictor(points: Sequence[Measurement]) -> Quadratic:
    """The length predictor's time over its own input.

    Raises:
        ProfileFitError: too few points, or times that are not finite and positive.
    """
    return Quadratic(*_fit_and_check("predictor", points, degree=2)[0])


def mape(predict: Callable[[int], float], held_out: Sequence[Measurement]) -> float:
    """Mean of |predicted - measured| / measured over the held-out points."""
    errors = [abs(predict(m.tokens) - m.seconds) / m.seconds for m in held_out]
    return float(np.mean(errors))


def _constant(stage: str, points: Sequence[Measurement]) -> float:
    """The median of a time that does not depend on the number of tokens; 0 without points."""
    for m in points:
        _check_time(stage, m)
    return float(np.median([m.seconds for m in points])) if points else 0.0


def _rate(stage: str, points: Sequence[Measurement]) -> float:
    """The median of the time per token; 0 without points."""
    for m in points:
        _check_time(stage, m)
    return float(np.median([m.seconds / m.tokens for m in points])) if points else 0.0


def _check_time(stage: str, m: Measurement | ChunkMeasurement) -> None:
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


def _fit_chunks(points: ProfilePoints) -> tuple[tuple[float, ...], float]:
    """a, b, c of whole prefills that are made of such chunks, and the MAPE on measured ones.

    Every token of a chunk attends to those before it, so a chunk of n tokens at position s takes
    t(s, n) = launch + linear n + attention (n s + n (n + 1) / 2). A prefill is the sum of its
    chunks, the remainder first, and equation (4) is fitted to such sums.
    """
    chunks = points.chunks
    if len({(m.position, m.tokens) for m in chunks}) < _CHUNK_TERMS or not points.prefill:
        raise ProfileFitError(
            f"prefill: {len(chunks)} chunks and {len(points.prefill)} whole prefills are too few, "
            f"at least {_CHUNK_TERMS} and 1 are needed"
        )
    for m in chunks:
        _check_time("prefill", m)
    for whole in points.prefill:
        _check_time("prefill", whole)
    terms = _chunk_terms(
        np.array([m.position for m in chunks]), np.array([m.tokens for m in chunks])
    )
    weights = _non_negative(terms, np.array([m.seconds for m in chunks]))
    shortest, longest = min(m.tokens for m in chunks), points.longest_prefill
    composed = [
        Measurement(n, float((_prefill_terms(n, points.chunk_size) @ weights).sum()))
        for n in np.unique(np.geomspace(shortest, longest, _COMPOSED).round().astype(int)).tolist()
    ]
    coefficients = _non_negative_least_squares(composed, 2)
    return coefficients, mape(lambda n: float(np.polyval(coefficients, n)), points.prefill)


def _prefill_terms(tokens: int, chunk: int) -> NDArray[np.float64]:
    """The terms of every chunk of a prefill of ``tokens`` tokens, one row each."""
    ends = np.arange(tokens, 0, -chunk)[::-1]  # the remainder comes first
    return _chunk_terms(np.r_[0, ends[:-1]], np.diff(ends, prepend=0))


def _chunk_terms(position: NDArray[Any], tokens: NDArray[Any]) -> NDArray[np.float64]:
    """What a chunk's time is linear in: [chunks, 3]."""
    attended = tokens * position + tokens * (tokens + 1) / 2
    return np.stack([np.ones(len(tokens)), tokens, attended], axis=1).astype(np.float64)


def _non_negative_least_squares(points: Sequence[Measurement], degree: int) -> tuple[float, ...]:
    """Coefficients of a polynomial with the least relative errors, highest power first."""
    tokens = np.array([m.tokens for m in points], dtype=np.float64)
    powers: NDArray[np.int64] = np.arange(degree, -1, -1)
    seconds = np.array([m.seconds for m in points], dtype=np.float64)
    return tuple(float(c) for c in _non_negative(tokens[:, None] ** powers, seconds))


def _non_negative(terms: NDArray[np.float64], seconds: NDArray[Any]) -> NDArray[np.float64]:
    """Relative least squares; a term that comes out negative is left out and the rest refitted."""
    scale = terms.max(axis=0)
    columns = terms / scale / seconds[:, None]
    kept = np.ones(len(scale), dtype=bool)
    solution = np.zeros(len(scale))
    while kept.any():
        solution[:] = 0.0
        solution[kept] = np.linalg.lstsq(columns[:, kept], np.ones(len(seconds)), rcond=None)[0]
        if (solution >= 0.0).all():
            break
        kept &= solution >= 0.0
    return np.asarray(solution / scale)
