# SPDX-License-Identifier: Apache-2.0
"""Measuring how long the models take on this machine, for the execution time estimator."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import ChunkMeasurement, Measurement, ProfilePoints
from timebill_ros.engine.profile_work import (
    ChunkVisit,
    StepVisit,
    Visit,
    WholeVisit,
    chunk_visits,
    deep_visit,
    shortest,
    spaced,
    step_visits,
    whole_visits,
)
from timebill_ros.engine.protocol import Progress

_ROUNDS = 8
_STEPS = 4  # decoding steps timed at each cache length and round
_STRUCTURED_STEPS = 4  # after those, with the choice of a token under a schema
_TOKENS = _STEPS + _STRUCTURED_STEPS + 1
_STEP_LENGTHS = 9
_STEP_SHARE = 0.25  # of the limit, for the first round of the steps
_FEWEST_LENGTHS = 3  # a line fitted to every other point needs as many
_FEWEST_CHUNKS = 4  # a chunk's time is linear in three terms


class MeasuredEngine(Protocol):
    """An engine whose cache length is a number that can be set."""

    window: int
    chunk: int
    max_context: int

    def rehearse(self, prompt_tokens: int, cached_tokens: int, max_tokens: int) -> None:
        """Stand where ``cached_tokens`` of a prompt are prefilled, without having run them."""

    def prefill_chunk(self) -> bool:
        """Run the next chunk; True once response token 1 exists."""

    def evict(self, kept_tokens: int) -> None:
        """Shrink the prompt's cache to ``kept_tokens`` per head."""

    def step(self) -> None:
        """One decoding step."""


class Profiler:
    """Times single chunks and single steps at cache lengths over the whole context.

    Nothing has to be prefilled for that: the engine stands at a cache length as at a number. A
    prefill is the sum of its chunks, so a few of them tell its time at any length, and a few whole
    ones check it. The first round goes from small to large and takes what the time allows; what is
    out of reach is left out. The rounds after it visit every point in a new order, so that a drift
    of the machine does not become a slope; a point is the median of its rounds.

    Args:
        engine: to be measured, on the thread that will run it.
        limit: seconds that measuring should take at most. The few points without which no time
            model can be fitted are measured in any case.
        structured: begins an answer under a JSON schema, if responses can be held to one, and
            returns what chooses its next token.
        progress: told after every point.

    Raises:
        SettingError: the engine's context is below ``least_context``.
    """

    def __init__(
        self,
        engine: MeasuredEngine,
        *,
        limit: float,
        structured: Callable[[], Callable[[], object]] | None = None,
        progress: Progress = lambda _share, _text: None,
    ) -> None:
        least = least_context(engine.window)
        if engine.max_context < least:
            bound = f">= {least} for a window of {engine.window} (or lower window)"
            raise SettingError("max_context", engine.max_context, bound)
        self._engine = engine
        self._longest = engine.max_context - _TOKENS
        self._chunks = chunk_visits(engine.chunk, engine.window, self._longest)
        self._limit = limit
        self._structured = structured
        self._progress = progress
        self._order = random.Random(0)
        self._start = 0.0
        self._cost: dict[Visit, float] = {}  # of the last visit, s
        self._times: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def measure(self) -> ProfilePoints:
        """Warm up, run the rounds, return the medians."""
        self._start = time.perf_counter()
        self._warm_up()
        visits = self._first_round()
        for done in range(1, _ROUNDS):
            if not self._another_round(done, self._order.sample(visits, len(visits))):
                break
        full = self._engine.chunk
        end = max((n + s for s, n in self._times["chunk"] if n == full), default=0)
        reached = f"chunks of {full} tokens up to {end} of {self._longest}"
        self._progress(1.0, f"profiled in {self._elapsed():.1f} s, {reached}")
        return ProfilePoints(
            prefill=self._medians("prefill"),
            step=self._medians("step"),
            evict=self._medians("evict"),
            structured=self._medians("structured"),
            chunks=tuple(
                ChunkMeasurement(position, tokens, statistics.median(times))
                for (position, tokens), times in self._times["chunk"].items()
            ),
            chunk_size=self._engine.chunk,
            spread=self._spread(),
        )

    def _elapsed(self) -> float:
        return time.perf_counter() - self._start

    def _warm_up(self) -> None:
        """Allocators, thread pools and kernels settle on the first visits."""
        smallest = self._chunks[0]
        for visit in (smallest, StepVisit(self._longest), smallest):
            self._visit(visit)
        self._times.clear()

    def _first_round(self) -> list[Visit]:
        """Visit what the time allows, from small to large; the visits made."""
        steps = step_visits(self._longest, self._affordable_steps())
        for step in steps:
            self._first_visit(step)
        chunks: list[ChunkVisit] = []
        for chunk in self._chunks:
            enough = len(chunks) >= _FEWEST_CHUNKS and len(self._times["evict"]) >= _FEWEST_LENGTHS
            if enough:
                most = self._cost[chunks[-1]] * chunk.most_work / chunks[-1].most_work
                if self._elapsed() + most > self._limit:
                    # What the attention to a long context takes does not follow from short ones.
                    deep = deep_visit(self._engine.chunk, self._engine.window, self._longest)
                    self._first_visit(deep)
                    chunks.append(deep)
                    break
            self._first_visit(chunk)
            chunks.append(chunk)
        wholes: list[WholeVisit] = []
        widest = max(chunks, key=lambda chunk: chunk.tokens)
        for whole in whole_visits(self._engine.chunk, widest.end):
            if wholes and self._elapsed() + self._most(whole, widest) > self._limit:
                break
            self._first_visit(whole)
            wholes.append(whole)
        return [*steps, *chunks, *wholes]

    def _first_visit(self, visit: Visit) -> None:
        self._visit(visit)
        share = min(1.0, self._elapsed() / self._limit) if self._limit > 0.0 else 1.0
        # Told by the clock, as a share of what the rounds after this one leave.
        self._progress(share / _ROUNDS, f"profiling: {visit} in {self._cost[visit]:.3f} s")

    def _affordable_steps(self) -> int:
        """How many cache lengths fit the first round's share of the limit."""
        cost = self._cost[StepVisit(self._longest)]
        affordable = _STEP_SHARE * self._limit / cost if cost > 0.0 else _STEP_LENGTHS
        return max(_FEWEST_LENGTHS, min(_STEP_LENGTHS, int(affordable)))

    def _most(self, whole: WholeVisit, widest: ChunkVisit) -> float:
        """Most seconds that a whole prefill should take: no chunk of it more than the widest."""
        return math.ceil(whole.tokens / self._engine.chunk) * self._cost[widest]

    def _another_round(self, done: int, visits: Sequence[Visit]) -> bool:
        """Visit what still fits the limit; whether everything did."""
        for index, visit in enumerate(visits):
            if self._elapsed() + self._cost[visit] > self._limit:
                return False
            self._visit(visit)
            share = (done + (index + 1) / len(visits)) / _ROUNDS
            self._progress(share, f"profiling: round {done + 1}, {visit}")
        return True

    def _visit(self, visit: Visit) -> None:
        start = time.perf_counter()
        match visit:
            case ChunkVisit():
                self._visit_chunk(visit)
            case StepVisit():
                self._visit_step(visit.cached)
            case WholeVisit():
                self._engine.rehearse(visit.tokens, 0, _TOKENS)
                self._time("prefill", (visit.tokens, 0), self._prefill)
        self._cost[visit] = time.perf_counter() - start

    def _visit_chunk(self, visit: ChunkVisit) -> None:
        engine, end = self._engine, visit.end
        engine.rehearse(end, visit.position, _TOKENS)
        self._time("chunk", (visit.position, visit.tokens), engine.prefill_chunk)
        if end > engine.window:
            kept = max(engine.window, end // 2)
            self._time("evict", (end, 0), lambda: engine.evict(kept))

    def _visit_step(self, cached: int) -> None:
        engine = self._engine
        engine.rehearse(cached, cached - 1, _TOKENS)
        engine.prefill_chunk()  # of one token, so that there is a response to go on with
        plain = statistics.median([_seconds(engine.step) for _ in range(_STEPS)])
        # Step i runs over a cache of N_x + i - 1 tokens: the median belongs to the middle one.
        self._times["step"][(cached + _STEPS // 2, 0)].append(plain)
        if self._structured is not None:
            self._times["structured"][(cached, 0)].append(self._added_by(self._structured(), plain))

    def _added_by(self, choose: Callable[[], object], plain: float) -> float:
        """What choosing a token after each step adds, s, where a step alone takes ``plain``.

        More than the choice itself, since step and choice push each other out of the caches.
        """
        pairs = [(_seconds(self._engine.step), _seconds(choose)) for _ in range(_STRUCTURED_STEPS)]
        alone = statistics.median(choice for _, choice in pairs)
        return max(alone, statistics.median(map(sum, pairs)) - plain)

    def _prefill(self) -> None:
        while not self._engine.prefill_chunk():
            pass

    def _time(self, stage: str, key: tuple[int, int], work: Callable[[], object]) -> None:
        self._times[stage][key].append(_seconds(work))

    def _medians(self, stage: str) -> tuple[Measurement, ...]:
        times = self._times[stage]
        return tuple(Measurement(key[0], statistics.median(times[key])) for key in times)

    def _spread(self) -> float:
        """How far single measurements lie from their median, see ``ProfilePoints``."""
        deviations = [
            abs(seconds / statistics.median(times) - 1.0)
            for stage in ("chunk", "step")
            for times in self._times[stage].values()
            if len(times) > 1
            for seconds in times
        ]
        return statistics.fmean(deviations) if deviations else 0.0


def least_context(window: int) -> int:
    """The smallest ``max_context`` whose requests a time model can be fitted to, tokens."""
    return window + _FEWEST_CHUNKS + _TOKENS


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start) * 1e-9


_PREDICTOR_LENGTHS = 9
_FEWEST_INPUTS = 5  # a quadratic fitted to every other point needs as many
_PREDICTOR_ROUNDS = 5


def profile_predictor(
    predict: Callable[[int], object], *, longest: int, limit: float
) -> tuple[Measurement, ...]:
    """Time predictions from inputs of graded length, up to ``longest`` tokens.

    The first round goes from short to long while ``limit`` seconds allow, the fewest lengths in any
    case; the rounds after it come in a new order each. A point is the median of its rounds.
    """
    start = time.perf_counter()
    lengths = spaced(shortest(longest), longest, _PREDICTOR_LENGTHS)
    predict(lengths[0])  # the first is slower than any other
    times: dict[int, list[float]] = {}
    for length in lengths:
        if len(times) >= _FEWEST_INPUTS:
            before = max(times)
            # At most quadratic.
            expected = times[before][0] * (length / before) ** 2
            if time.perf_counter() - start + expected > limit:
                break
        times[length] = [_prediction_seconds(predict, length)]
    order = random.Random(0)
    for _ in range(1, _PREDICTOR_ROUNDS):
        for length in order.sample(sorted(times), len(times)):
            if time.perf_counter() - start + times[length][-1] > limit:
                break
            times[length].append(_prediction_seconds(predict, length))
    return tuple(Measurement(length, statistics.median(seen)) for length, seen in times.items())


def _prediction_seconds(predict: Callable[[int], object], length: int) -> float:
    start = time.perf_counter_ns()
    predict(length)
    return (time.perf_counter_ns() - start) * 1e-9
