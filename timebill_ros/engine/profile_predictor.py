# SPDX-License-Identifier: Apache-2.0
"""Measuring how long the length predictor takes over its own input."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from timebill_ros.budget.fit import Measurement
from timebill_ros.engine.profile_visits import shortest, spaced

_LENGTHS = 9
_FEWEST = 5  # a quadratic fitted to every other point needs as many
_ROUNDS = 5


def profile_predictor(
    predict: Callable[[int], object], *, longest: int, limit: float
) -> tuple[Measurement, ...]:
    """Time predictions from inputs of graded length, up to ``longest`` tokens.

    The first round goes from short to long while ``limit`` seconds allow, the fewest lengths in any
    case; the rounds after it come in a new order each. A point is the median of its rounds.
    """
    start = time.perf_counter()
    lengths = spaced(shortest(longest), longest, _LENGTHS)
    predict(lengths[0])  # the first is slower than any other
    times: dict[int, list[float]] = {}
    for length in lengths:
        if len(times) >= _FEWEST:
            before = max(times)
            # At most quadratic.
            expected = times[before][0] * (length / before) ** 2
            if time.perf_counter() - start + expected > limit:
                break
        times[length] = [_seconds(predict, length)]
    order = random.Random(0)
    for _ in range(1, _ROUNDS):
        for length in order.sample(sorted(times), len(times)):
            if time.perf_counter() - start + times[length][-1] > limit:
                break
            times[length].append(_seconds(predict, length))
    return tuple(Measurement(length, statistics.median(seen)) for length, seen in times.items())


def _seconds(predict: Callable[[int], object], length: int) -> float:
    start = time.perf_counter_ns()
    predict(length)
    return (time.perf_counter_ns() - start) * 1e-9
