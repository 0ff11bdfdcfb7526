# SPDX-License-Identifier: Apache-2.0
"""Measuring how long the loaded model takes on this machine, for the execution time estimator."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import fields

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import Measurement, ProfilePoints
from timebill_ros.engine.protocol import Engine, PreparedRequest, Progress

_SIZES = 10
_ROUNDS = 5
_STEPS = 16  # decoding steps timed at each size and round
_STRUCTURED_STEPS = 8  # after those, with the choice of a token under a schema
_TOKENS = _STEPS + _STRUCTURED_STEPS + 1
_LEAST_WINDOWS = 8  # observation windows in the largest size, so that most can be evicted from
_FEWEST_SIZES = 5  # a quadratic fitted to every other point needs as many


class Profiler:
    """Times requests of graded length, as the runtime runs them.

    One request of N_x tokens gives a prefill time, the time of a decoding step at that cache length
    and the time of evicting half of the prompt. The sizes are visited in rounds, each in a new
    order, so that a drift of the machine spreads over all of them; a point is the median of its
    rounds. For a model that is slow against the limit the sizes are smaller, the first round, which
    goes from small to large, stops early, and there are fewer rounds.

    Args:
        engine: to be measured, on the thread that will run it.
        limit: seconds that measuring should take at most.
        predict: runs the length predictor on an input of so many tokens, if there is one.
        structured: begins an answer under a JSON schema, if responses can be held to one, and
            returns what chooses its next token.
        progress: told after every request.

    Raises:
        SettingError: the engine's context is below ``least_context``.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        limit: float,
        predict: Callable[[int], object] | None = None,
        structured: Callable[[], Callable[[], object]] | None = None,
        progress: Progress = lambda share, text: None,
    ) -> None:
        least = least_context(engine.window)
        if engine.max_context < least:
            bound = f">= {least} for a window of {engine.window} (or lower window)"
            raise SettingError("max_context", engine.max_context, bound)
        self._engine = engine
        self._limit = limit
        self._predict = predict
        self._structured = structured
        self._progress = progress
        self._order = random.Random(0)
        self._times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def measure(self) -> ProfilePoints:
        """Warm up, run the rounds, return the medians."""
        start = time.perf_counter()
        visited = self._first_round(self._affordable_sizes(), start)
        first_round = time.perf_counter() - start
        for done in range(1, _ROUNDS):
            spent = time.perf_counter() - start
            if spent + first_round > self._limit:
                break
            for index, size in enumerate(self._order.sample(visited, len(visited))):
                self._visit(size)
                share = (done + index / len(visited)) / _ROUNDS
                self._progress(share, f"profiling: round {done + 1}, {size} tokens")
        self._progress(1.0, f"profiled in {time.perf_counter() - start:.1f} s")
        stages = (field.name for field in fields(ProfilePoints))
        return ProfilePoints(**{stage: self._medians(stage) for stage in stages})

    def _affordable_sizes(self) -> list[int]:
        """Warm up with the smallest size, and take from it how large the others may be."""
        window = self._engine.window
        largest = self._engine.max_context - _TOKENS
        sizes = request_sizes(window, largest)
        self._visit(sizes[0])  # allocators, thread pools and kernels settle on the first request
        smallest = _seconds(lambda: self._visit(sizes[0]))
        self._times.clear()
        # A lower bound on a round: prefill grows at least linearly.
        share = self._limit / (smallest * sum(sizes) / sizes[0])
        if share >= 1.0:
            return sizes
        affordable = max(_LEAST_WINDOWS * window, round(largest * share))
        return request_sizes(window, min(largest, affordable))

    def _first_round(self, sizes: Sequence[int], start: float) -> list[int]:
        """Visit the sizes in ascending order while time allows; the sizes visited."""
        visited: list[int] = []
        seconds = 0.0
        for size in sizes:
            if len(visited) >= _FEWEST_SIZES:
                # Prefill grows at most quadratically.
                expected = seconds * (size / visited[-1]) ** 2
                if time.perf_counter() - start + expected > self._limit:
                    break
            before = time.perf_counter()
            self._visit(size)
            seconds = time.perf_counter() - before
            visited.append(size)
            # By the clock where one round takes all the time there is.
            spent = time.perf_counter() - start
            share = max(len(visited) / len(sizes) / _ROUNDS, spent / max(spent, self._limit))
            self._progress(share, f"profiling: {size} tokens in {seconds:.3f} s")
        return visited

    def _visit(self, size: int) -> None:
        """Time one request of ``size`` prompt tokens."""
        engine = self._engine
        engine.begin(PreparedRequest([0] * size), _TOKENS, ignore_eos=True)
        self._time("prefill", size, lambda: _prefill(engine))
        steps = [_seconds(engine.step) for _ in range(_STEPS)]
        # Step i runs over a cache of N_x + i - 1 tokens: the median belongs to the middle one.
        plain = statistics.median(steps)
        self._times["step"][size + _STEPS // 2].append(plain)
        if self._structured is not None:
            self._times["structured"][size].append(self._added_by(self._structured(), plain))
        kept = max(engine.window, size // 2)
        self._time("evict", size, lambda: engine.evict(kept))
        if self._predict is not None:
            predict = self._predict
            self._time("predictor", size, lambda: predict(size))

    def _added_by(self, choose: Callable[[], object], plain: float) -> float:
        """What choosing a token after each step adds, s, where a step alone takes ``plain``.

        More than the choice itself, since step and choice push each other out of the caches.
        """
        pairs = [(_seconds(self._engine.step), _seconds(choose)) for _ in range(_STRUCTURED_STEPS)]
        alone = statistics.median(choice for _, choice in pairs)
        return max(alone, statistics.median(map(sum, pairs)) - plain)

    def _time(self, stage: str, tokens: int, work: Callable[[], object]) -> None:
        self._times[stage][tokens].append(_seconds(work))

    def _medians(self, stage: str) -> tuple[Measurement, ...]:
        times = self._times[stage]
        return tuple(Measurement(tokens, statistics.median(times[tokens])) for tokens in times)


def least_context(window: int) -> int:
    """The smallest ``max_context`` whose requests a time model can be fitted to, tokens."""
    return window + _FEWEST_SIZES + _TOKENS


def request_sizes(window: int, largest: int) -> list[int]:
    """Prompt lengths to measure, up to ``largest``, denser where they are small.

    All are above ``window``, so that there is something to evict.
    """
    shares = ((index / _SIZES) ** 1.5 for index in range(1, _SIZES + 1))
    return sorted({window + max(1, round((largest - window) * share)) for share in shares})


def _prefill(engine: Engine) -> None:
    while not engine.prefill_chunk():
        pass


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) * 1e-9
