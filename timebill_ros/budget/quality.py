# SPDX-License-Identifier: Apache-2.0
"""How good answers are after a lever was pulled, as measured on the loaded model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timebill_ros.budget.errors import QualityFileError

# What scores are: of answers against references, or how far the model's own answer stays its first
# choice. They are different scales, which are not to be compared.
MEASURES = ("references", "agreement")

# Where a checkpoint's folder holds its curves.
QUALITY_FILE = "quality.json"

# Standard errors by which a difference of two scores is more than chance.
_CHANCE = 2.0


@dataclass(frozen=True)
class QualityPoint:
    """What was measured at one setting of one lever.

    Attributes:
        dropped: the share that the lever drops, 0 to 1: alpha of eviction, 1 - rho of selection.
        score: mean score of the answers, 0 to 100.
        standard_error: of that mean.
        ran_to_cap: share of the answers that did not end by themselves.
    """

    dropped: float
    score: float
    standard_error: float
    ran_to_cap: float


@dataclass(frozen=True)
class QualityCurve:
    """The measured points of one method, in the order of what they drop.

    Raises:
        ValueError: no points, or shares that do not grow within 0 to 1, or figures out of range.
    """

    points: tuple[QualityPoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a quality curve needs a point")
        dropped = [point.dropped for point in self.points]
        if any(second <= first for first, second in pairwise(dropped)):
            raise ValueError(f"dropped must grow from point to point, not {dropped}")
        for point in self.points:
            for name, most in (
                ("dropped", 1.0),
                ("score", 100.0),
                ("standard_error", 100.0),
                ("ran_to_cap", 1.0),
            ):
                value = getattr(point, name)
                if not 0.0 <= value <= most:
                    raise ValueError(f"{name} must be within 0 to {most:g}, not {value!r}")

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """Q at each point. A rise counts only where it is more than chance.

        Where more is dropped and the measured score is higher by at most two standard errors of the
        difference, it is taken to be the same. Otherwise a lever would be pulled for noise, at any
        budget.
        """
        first, *others = self.points
        scores, error = [first.score], first.standard_error
        for point in others:
            chance = _CHANCE * math.hypot(error, point.standard_error)
            if 0.0 < point.score - scores[-1] <= chance:
                scores.append(scores[-1])
            else:
                scores.append(point.score)
                error = point.standard_error
        return tuple(scores)

    def score(self, dropped: ArrayLike) -> NDArray[np.float64]:
        """Q, 0 to 100, in the shape of ``dropped``: linear between points, level beyond them."""
        return np.asarray(np.interp(np.asarray(dropped), self._known[0], self._known[1]))

    def ran_to_cap(self, dropped: ArrayLike) -> NDArray[np.float64]:
        """Share of answers that run to the cap, in the shape of ``dropped``."""
        return np.asarray(np.interp(np.asarray(dropped), self._known[0], self._known[2]))

    def more_to_cap(self, dropped: ArrayLike) -> NDArray[np.float64]:
        """Share of answers that run to the cap, beyond those that do with nothing dropped."""
        return np.maximum(0.0, self.ran_to_cap(dropped) - self.ran_to_cap(0.0))

    def down_to_nothing(self, dropped: ArrayLike) -> NDArray[np.float64]:
        """Q, as ``score``, but falling to 0 beyond the last point, where nothing is left."""
        return np.asarray(np.interp(np.asarray(dropped), *self._with_nothing_left))

    @cached_property
    def _known(self) -> tuple[NDArray[np.float64], ...]:
        """Shares that are dropped, and Q and the answers that run to the cap there."""
        columns = (
            [p.dropped for p in self.points],
            self.scores,
            [p.ran_to_cap for p in self.points],
        )
        return tuple(np.array(column, dtype=np.float64) for column in columns)

    @cached_property
    def _with_nothing_left(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.append(self._known[0], 1.0), np.append(self._known[1], 0.0)


@dataclass(frozen=True)
class CutPoint:
    """What was measured of answers that were cut.

    Attributes:
        fraction: of an answer that is left, above 0 and below 1.
        worth: mean score of what can stand for itself of it, as a share of the whole answers'.
        standard_error: of that.
    """

    fraction: float
    worth: float
    standard_error: float


@dataclass(frozen=True)
class CutWorth:
    """A(f): what an answer is worth of which only the fraction f came, of a whole one's score.

    Raises:
        ValueError: fractions that do not grow within 0 and 1, or figures out of range.
    """

    points: tuple[CutPoint, ...]

    def __post_init__(self) -> None:
        reached = 0.0
        for point in self.points:
            if not reached < point.fraction < 1.0:
                raise ValueError(f"fraction must grow within 0 and 1, not {point.fraction!r}")
            if not 0.0 <= point.worth <= 1.0 or not 0.0 <= point.standard_error <= 1.0:
                raise ValueError(f"worth and its error must be within 0 to 1: {point}")
            reached = point.fraction

    def at(self, fractions: ArrayLike) -> NDArray[np.float64]:
        """A, in the shape of ``fractions``: linear between 0, the points, and 1 of the whole."""
        known = [0.0, *(point.fraction for point in self.points), 1.0]
        worths = [0.0, *(point.worth for point in self.points), 1.0]
        return np.asarray(np.interp(np.asarray(fractions), known, worths))


# Where nothing was measured: how often SmolLM2-135M's own whole-context answer stayed its first
# choice after SnapKV, by which it loses more than larger models do.
PRIOR = QualityCurve(
    tuple(
        QualityPoint(dropped, score, 5.0, ran)
        for dropped, score, ran in (
            *((0.0, 100.0, 0.0), (0.5, 87.0, 0.0), (0.75, 69.0, 0.02)),
            *((0.9, 58.0, 0.1), (0.95, 50.0, 0.2)),
        )
    )
)


# What a model without a curve is worth against the next larger one.
SMALLER_PRIOR = 0.9

# Keeps a curve that starts at 0 from being divided by.
_TINY = 1e-9


@dataclass(frozen=True)
class LeverQuality:
    """Q(rho, alpha) of the loaded model.

    Attributes:
        eviction: over alpha.
        selection: over 1 - rho; None where selection was not measured, and so is not used.
        measured: whether ``eviction`` was measured on this model, and is not ``PRIOR``.
        measure: what the scores are, one of ``MEASURES``. Those by agreement are relative to the
            model itself, and say nothing of another model's.
        cut: what a part of an answer is worth; None where that was not measured.
    """

    eviction: QualityCurve = PRIOR
    selection: QualityCurve | None = None
    measured: bool = False
    measure: str = "references"
    cut: CutWorth | None = None

    @property
    def comparable(self) -> bool:
        """Whether the scores can be held against another model's."""
        return self.measured and self.measure == MEASURES[0]

    def score(self, rho: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
        """Q(rho, alpha), 0 to 100.

        The levers are measured one by one. What selection leaves is what matters, so evicting from
        it costs more than evicting the same share of a whole prompt: as much as evicting down to
        the same total, 1 - rho (1 - alpha), by eviction alone. Beyond its last point the curve of
        eviction falls to 0, where nothing is left.
        """
        if self.selection is None:
            return self.eviction.score(alpha)
        selected, evicts = 1.0 - np.asarray(rho), np.asarray(alpha) > 0.0
        prices = self.selection.score(selected) / max(float(self.selection.score(0.0)), _TINY)
        alone = float(self.eviction.score(0.0)) * prices
        evicted = self.eviction.down_to_nothing(_dropped(rho, alpha))
        both = np.where(selected > 0.0, np.minimum(alone, evicted), evicted)
        return np.where(evicts, both, alone)

    def runs_on(self, rho: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
        """r(rho, alpha): share of answers that run to the cap because of the levers."""
        if self.selection is None:
            return self.eviction.more_to_cap(alpha)
        alone = self.selection.more_to_cap(1.0 - np.asarray(rho))
        both = np.maximum(alone, self.eviction.more_to_cap(_dropped(rho, alpha)))
        return np.where(np.asarray(alpha) > 0.0, both, alone)


def _dropped(rho: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """The share of the whole prompt that both levers drop."""
    return np.asarray(1.0 - np.asarray(rho) * (1.0 - np.asarray(alpha)))


def with_priors(largest_first: Sequence[LeverQuality]) -> tuple[LeverQuality, ...]:
    """Curves of several models that can be compared with each other.

    A model whose answers were not held against references is taken to score, with nothing dropped,
    what the next larger one does times ``SMALLER_PRIOR``; its own curve, or ``PRIOR``, goes on from
    there in proportion. The largest keeps what it has.
    """
    known: list[LeverQuality] = []
    for own in largest_first:
        if known and not own.comparable:
            whole = max(float(own.score(1.0, 0.0)), _TINY)
            share = SMALLER_PRIOR * float(known[-1].score(1.0, 0.0)) / whole
            points = (
                replace(point, score=min(100.0, share * point.score))
                for point in own.eviction.points
            )
            own = replace(own, eviction=QualityCurve(tuple(points)))
        known.append(own)
    return tuple(known)


@dataclass(frozen=True)
class QualityFile:
    """The curves of some eviction and selection methods, by the methods' names, and A(f).

    All are by one ``measure`` of ``MEASURES``, so that levers can be weighed against each other.

    Raises:
        ValueError: no such measure.
    """

    eviction: Mapping[str, QualityCurve] = field(default_factory=dict)
    selection: Mapping[str, QualityCurve] = field(default_factory=dict)
    measure: str = "references"
    cut: CutWorth | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {self.measure!r}")

    def of(self, eviction_method: str, selection: str) -> LeverQuality:
        """The curves of these methods; the prior where eviction by this one was not measured."""
        curve = self.eviction.get(eviction_method)
        return LeverQuality(
            eviction=PRIOR if curve is None else curve,
            selection=self.selection.get(selection),
            measured=curve is not None,
            measure=self.measure,
            cut=self.cut,
        )


def write_quality(path: Path, quality: QualityFile) -> None:
    """Write the curves as JSON."""
    written: dict[str, object] = {"measure": quality.measure}
    written |= {
        lever: {name: [asdict(point) for point in curve.points] for name, curve in curves.items()}
        for lever, curves in (("eviction", quality.eviction), ("selection", quality.selection))
    }
    if quality.cut is not None:
        written["cut"] = [asdict(point) for point in quality.cut.points]
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def read_quality(path: Path) -> QualityFile:
    """Read what ``write_quality`` wrote.

    Raises:
        QualityFileError: the file cannot be read, or does not hold curves.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        levers = {name: value for name, value in content.items() if name not in ("measure", "cut")}
        cut = content.get("cut")
        return QualityFile(
            **{lever: _curves(methods) for lever, methods in levers.items()},
            measure=content.get("measure", MEASURES[0]),
            cut=None if cut is None else CutWorth(tuple(CutPoint(**point) for point in cut)),
        )
    except OSError as error:
        raise QualityFileError(path, error.strerror or str(error)) from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise QualityFileError(path, str(error)) from error


def _curves(methods: Mapping[str, list[dict[str, float]]]) -> dict[str, QualityCurve]:
    return {
        name: QualityCurve(tuple(QualityPoint(**point) for point in points))
        for name, points in methods.items()
    }
