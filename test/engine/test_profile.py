# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import fit_predictor, fit_time_model
from timebill_ros.engine import profile as module
from timebill_ros.engine.profile import Profiler, least_context, profile_predictor
from timebill_ros.engine.profile_work import chunk_visits
from timebill_ros.engine.sampling import Sampling

NEVER_LATE = 1e9  # s


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def perf_counter_ns(self):
        return round(self.seconds * 1e9)


class TimedEngine:
    """Takes exactly the time of linear steps, a linear eviction, and chunks that attend to all."""

    def __init__(self, clock, max_context=8192, slowness=1.0, window=16, chunk=512):
        self.clock = clock
        self.max_context = max_context
        self.slowness = slowness
        self.window = window
        self.chunk = chunk
        self.chunks = []
        self.steps = Counter()

    def rehearse(self, prompt_tokens, cached_tokens, max_tokens):
        assert 0 <= cached_tokens < prompt_tokens <= self.max_context - max_tokens
        self.prompt, self.cached = prompt_tokens, cached_tokens

    def prefill_chunk(self):
        tokens = (self.prompt - self.cached) % self.chunk or self.chunk
        self.chunks.append((self.cached, tokens))
        attended = tokens * self.cached + tokens * (tokens + 1) / 2
        self.spend(1e-4 + 2e-6 * tokens + 2e-9 * attended)
        self.cached += tokens
        return self.cached == self.prompt

    def step(self):
        self.steps[self.cached] += 1
        self.spend(5e-8 * self.cached + 2e-4)
        self.cached += 1

    def evict(self, kept_tokens):
        assert self.window <= kept_tokens < self.prompt == self.cached
        self.spend(4e-7 * self.prompt + 1e-4)

    def spend(self, seconds):
        self.clock.seconds += self.slowness * seconds


def whole_prefill(tokens, chunk=512):
    """What the engine takes for a whole prefill, s."""
    chunks = -(-tokens // chunk)
    return 1e-4 * chunks + 2e-6 * tokens + 1e-9 * tokens * (tokens + 1)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_time_model_is_recovered_over_the_whole_context(clock):
    fit = fit_time_model(Profiler(TimedEngine(clock), limit=NEVER_LATE).measure())
    model = fit.model
    assert (model.p, model.q) == pytest.approx((5e-8, 2e-4), rel=1e-3)
    assert (model.evict_rate, model.evict_base) == pytest.approx((4e-7, 1e-4), rel=1e-3)
    for tokens in (20, 100, 511, 513, 1500, 4000, 8000):
        # Equation (4) is smooth, the start of one more chunk is not.
        assert model.prefill(tokens) == pytest.approx(whole_prefill(tokens), rel=0.08)
    assert model.prefill(8000) == pytest.approx(whole_prefill(8000), rel=0.02)
    assert max(fit.step_mape, fit.evict_mape, fit.spread) < 1e-3
    assert fit.longest_prefill == 8192 - 9
    assert not fit.disturbance


def test_no_long_prefill_is_run_for_it(clock):
    """A chunk deep in the context costs what it costs, and nothing for what stands before it."""
    engine = TimedEngine(clock)
    Profiler(engine, limit=NEVER_LATE).measure()
    deepest = max(position for position, tokens in engine.chunks if tokens == engine.chunk)
    assert deepest == engine.max_context - 9 - engine.chunk
    assert (deepest - engine.chunk, engine.chunk) not in engine.chunks
    assert (max(engine.steps) - engine.chunk) not in engine.steps


def test_what_a_schema_adds_to_a_token_is_measured_beside_the_model(clock):
    def choose():
        clock.seconds += 3e-5

    points = Profiler(TimedEngine(clock), limit=NEVER_LATE, structured=lambda: choose).measure()
    model = fit_time_model(points).model
    # The steps with a choice come behind the others, over a cache that has grown by 4 tokens.
    assert model.q_structured == pytest.approx(3e-5 + 4 * 5e-8, rel=1e-3)
    assert model.q == pytest.approx(2e-4, rel=1e-3)


def test_without_a_schema_there_are_no_such_points(clock):
    points = Profiler(TimedEngine(clock), limit=NEVER_LATE).measure()
    assert (points.predictor, points.structured) == ((), ())


def test_every_point_is_visited_in_another_order_every_round(clock):
    engine, told = TimedEngine(clock), []
    Profiler(engine, limit=NEVER_LATE, progress=lambda _, text: told.append(text)).measure()
    rounds = {}
    for text in told:
        _, _, after = text.partition("profiling: round ")
        if after:
            number, visit = after.split(", ", 1)
            rounds.setdefault(number, []).append(visit)
    assert len(rounds) == 7  # and the first, which goes from small to large
    assert len({frozenset(visits) for visits in rounds.values()}) == 1
    assert len({tuple(visits) for visits in rounds.values()}) == 7


def test_a_drift_of_the_machine_does_not_become_a_slope(clock):
    engine = TimedEngine(clock)

    def drift(share, text):
        engine.slowness = 1.0 + share

    model = fit_time_model(Profiler(engine, limit=NEVER_LATE, progress=drift).measure()).model
    # Everything is slower by the same factor; what was first is not faster than what was last.
    factor = model.q / 2e-4
    assert 1.3 < factor < 1.6
    assert model.p == pytest.approx(factor * 5e-8, rel=0.15)
    assert model.prefill(8000) == pytest.approx(factor * whole_prefill(8000), rel=0.15)


def test_a_busy_machine_shows_in_the_spread(clock):
    engine = TimedEngine(clock)

    def jump(share, text):
        engine.slowness = 1.0 if engine.slowness > 1.0 else 2.0

    points = Profiler(engine, limit=NEVER_LATE, progress=jump).measure()
    assert points.spread > 0.15
    assert "off their median" in fit_time_model(points).disturbance


@pytest.mark.parametrize("slowness", [1.0, 100.0, 3e3, 1e5])
@pytest.mark.parametrize("limit", [1.0, 60.0])
def test_measuring_ends_within_the_limit(clock, slowness, limit):
    engine = TimedEngine(clock, slowness=slowness)
    points = Profiler(engine, limit=limit).measure()
    fit = fit_time_model(points)
    assert fit.model.step(1000) == pytest.approx(slowness * 2.5e-4, rel=0.1)
    # In any case: the warm-up, three lengths of steps, the smallest chunks, and a narrow deep one.
    least = slowness * (5 * 4 * 6.1e-4 + 2e-2)
    assert clock.seconds <= max(limit, least)
    # Where full chunks take too long, a narrow one at the end tells what attention takes there.
    widest = max(chunk.tokens for chunk in points.chunks)
    assert (widest == engine.chunk) == (slowness <= 50.0 * limit)
    assert fit.longest_prefill == engine.max_context - 9
    assert fit.model.prefill(4000) == pytest.approx(slowness * whole_prefill(4000), rel=0.1)


def test_progress_rises_to_the_end(clock):
    told = []
    Profiler(
        TimedEngine(clock), limit=60.0, progress=lambda share, text: told.append((share, text))
    ).measure()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(text for _, text in told)


@pytest.mark.parametrize("slowness", [1.0, 1e5])
@pytest.mark.parametrize("window", [1, 16, 64, 512])
def test_the_least_context_is_enough_for_a_time_model(clock, window, slowness):
    engine = TimedEngine(clock, max_context=least_context(window), slowness=slowness, window=window)
    model = fit_time_model(Profiler(engine, limit=1.0).measure()).model
    evicted = slowness * (4e-7 * (window + 3) + 1e-4)
    assert model.evict(window + 3) == pytest.approx(evicted, rel=0.01)


def test_less_context_is_refused_by_name(clock):
    engine = TimedEngine(clock, max_context=least_context(16) - 1)
    with pytest.raises(SettingError, match="max_context must be >= 29 for a window of 16"):
        Profiler(engine, limit=1.0)


@pytest.mark.parametrize(
    ("window", "chunk"), [(1, 1), (1, 512), (16, 16), (16, 512), (512, 512), (512, 10_000)]
)
@pytest.mark.parametrize("beyond", [4, 20, 500, 4000, 8000])
def test_chunks_span_the_context(window, chunk, beyond):
    longest = window + beyond
    visits = chunk_visits(chunk, window, longest)
    assert len(set(visits)) == len(visits)
    assert [v.most_work for v in visits] == sorted(v.most_work for v in visits)
    assert all(0 < v.tokens <= chunk for v in visits)
    assert visits[-1].end == longest
    evicting = {v.end for v in visits if v.end > window}
    assert len(evicting) >= 3


def test_a_real_engine_is_profiled(make_engine):
    engine = make_engine()
    points = engine.measure(5.0, lambda share, text: None)
    assert points.longest_prefill == 256 - 9
    assert points.chunk_size == 32
    fit = fit_time_model(points)
    assert fit.model.step(100) > 0.0
    assert fit.model.drawn().step(100) > fit.model.step(100)
    assert engine.response_tokens == 0


def test_measuring_draws_nothing_and_stops_at_nothing_whatever_is_set(make_engine):
    engine = make_engine(sampling=Sampling(temperature=1.0), stop=("a", "e", "i"))
    assert len(engine.measure(1.0, lambda share, text: None).step) >= 3
    assert engine.sampling.temperature == 1.0


class Predictor:
    """A clock, and a predictor that takes a linear time by it."""

    def __init__(self, slowness):
        self.seconds = 0.0
        self.slowness = slowness
        self.lengths = []

    def perf_counter(self):
        return self.seconds

    def perf_counter_ns(self):
        return round(self.seconds * 1e9)

    def predict(self, tokens):
        self.lengths.append(tokens)
        self.seconds += self.slowness * (1e-6 * tokens + 5e-5)


@pytest.mark.parametrize(("slowness", "longest"), [(1.0, 8192), (1e4, 1000), (1e6, 300)])
def test_its_own_input_is_measured_as_far_as_the_time_allows(monkeypatch, slowness, longest):
    predictor = Predictor(slowness)
    monkeypatch.setattr(module, "time", predictor)
    points = profile_predictor(predictor.predict, longest=8192, limit=60.0)
    fit = fit_predictor(points)
    assert (fit.b, fit.c) == pytest.approx((slowness * 1e-6, slowness * 5e-5), rel=1e-2)
    assert max(predictor.lengths) >= longest or slowness == 1e6
    assert (max(predictor.lengths) == 8192) == (slowness == 1.0)


@pytest.mark.parametrize("longest", [5, 16, 40])
def test_a_short_context_gives_enough_lengths(longest):
    points = profile_predictor(lambda tokens: sum(range(tokens)), longest=longest, limit=1.0)
    assert len(points) >= 5
    assert fit_predictor(points)(longest) > 0.0
