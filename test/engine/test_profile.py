# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.fit import fit_time_model
from timebill_ros.engine import profile as module
from timebill_ros.engine.profile import Profiler, least_context, request_sizes


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def perf_counter_ns(self):
        return round(self.seconds * 1e9)


class TimedEngine:
    """Takes exactly the time of a quadratic prefill, linear steps and a linear eviction."""

    window, chunk = 16, 512

    def __init__(self, clock, max_context=4096, slowness=1.0):
        self.clock = clock
        self.max_context = max_context
        self.slowness = slowness
        self.prompts = []

    def begin(self, request, max_tokens, *, ignore_eos):
        assert ignore_eos
        self.cached = len(request.prompt_ids)
        assert self.cached + max_tokens <= self.max_context
        self.prompts.append(self.cached)
        self.chunks = 2

    def prefill_chunk(self):
        whole = 1e-9 * self.cached**2 + 2e-6 * self.cached + 3e-4
        self.clock.seconds += self.slowness * whole / 2
        self.chunks -= 1
        return self.chunks == 0

    def step(self):
        self.clock.seconds += self.slowness * (5e-8 * self.cached + 2e-4)
        self.cached += 1

    def evict(self, kept_tokens):
        assert self.window <= kept_tokens < self.prompts[-1]
        self.clock.seconds += self.slowness * (4e-7 * self.prompts[-1] + 1e-4)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_time_model_is_recovered(clock):
    points = Profiler(TimedEngine(clock), limit=60.0).measure()
    fit = fit_time_model(points)
    model = fit.model
    assert (model.a, model.b, model.c) == pytest.approx((1e-9, 2e-6, 3e-4), rel=1e-3)
    assert (model.p, model.q) == pytest.approx((5e-8, 2e-4), rel=1e-3)
    assert (model.evict_rate, model.evict_base) == pytest.approx((4e-7, 1e-4), rel=1e-3)
    assert max(fit.prefill_mape, fit.step_mape, fit.evict_mape) < 1e-3


def test_the_predictor_is_timed_on_its_own_input(clock):
    def predict(tokens):
        clock.seconds += 1e-6 * tokens + 5e-5

    points = Profiler(TimedEngine(clock), limit=60.0, predict=predict).measure()
    predictor = fit_time_model(points).model.predictor
    assert (predictor.b, predictor.c) == pytest.approx((1e-6, 5e-5), rel=1e-2)


def test_without_a_predictor_there_are_no_such_points(clock):
    points = Profiler(TimedEngine(clock), limit=60.0).measure()
    assert (points.predictor, points.structured) == ((), ())


def test_what_a_schema_adds_to_a_token_is_measured_beside_the_model(clock):
    engine = TimedEngine(clock)

    def choose():
        clock.seconds += 3e-5

    points = Profiler(engine, limit=60.0, structured=lambda: choose).measure()
    assert [m.tokens for m in points.structured] == [m.tokens for m in points.prefill]
    model = fit_time_model(points).model
    # The steps with a choice come behind the others, over a cache that has grown by 12 tokens.
    assert model.q_structured == pytest.approx(3e-5 + 12 * 5e-8, rel=1e-3)
    assert model.q == pytest.approx(2e-4, rel=1e-3)


def test_sizes_come_in_another_order_every_round(clock):
    engine = TimedEngine(clock)
    Profiler(engine, limit=60.0).measure()
    sizes = request_sizes(16, 4096 - 25)
    rounds = [engine.prompts[i : i + 10] for i in range(2, len(engine.prompts), 10)]
    assert len(rounds) == 5
    assert all(sorted(visited) == sizes for visited in rounds)
    assert rounds[0] == sizes
    assert len({tuple(visited) for visited in rounds}) == 5


def test_one_slow_round_does_not_move_the_points(clock):
    engine = TimedEngine(clock)
    profiler = Profiler(engine, limit=60.0)
    visit = profiler._visit

    def disturbed(size):
        engine.slowness = 10.0 if 22 <= len(engine.prompts) < 32 else 1.0  # the third round
        visit(size)

    profiler._visit = disturbed
    assert fit_time_model(profiler.measure()).model.p == pytest.approx(5e-8, rel=1e-3)


@pytest.mark.parametrize("limit", [0.0, 1.0, 10.0, 100.0])
def test_a_slow_model_is_measured_within_the_limit(clock, limit):
    engine = TimedEngine(clock, slowness=100.0)
    points = Profiler(engine, limit=limit).measure()
    model = fit_time_model(points).model
    assert model.step(1000) == pytest.approx(100.0 * 2.5e-4, rel=0.1)
    least = 5.0  # what the warm-up and the smallest sizes take
    assert clock.seconds <= max(limit, least)
    assert (points.prefill[-1].tokens == 4096 - 25) == (limit == 100.0)


def test_progress_rises_to_the_end(clock):
    told = []
    Profiler(
        TimedEngine(clock), limit=60.0, progress=lambda share, text: told.append((share, text))
    ).measure()
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(text for _, text in told)


@pytest.mark.parametrize("window", [1, 16, 512])
@pytest.mark.parametrize("span", [5, 6, 9, 40, 8000])
def test_sizes_lie_above_the_window_and_end_at_the_largest(window, span):
    sizes = request_sizes(window, window + span)
    assert window < sizes[0] < sizes[-1] == window + span
    assert len(set(sizes)) == len(sizes) >= 5


@pytest.mark.parametrize("slowness", [1.0, 1e4])
@pytest.mark.parametrize("window", [1, 16, 64, 512])
def test_the_least_context_is_enough_for_a_time_model(clock, window, slowness):
    engine = TimedEngine(clock, max_context=least_context(window), slowness=slowness)
    engine.window = window
    fit = fit_time_model(Profiler(engine, limit=1.0).measure())
    assert fit.model.evict(window + 3) == pytest.approx(slowness * (4e-7 * (window + 3) + 1e-4))


def test_less_context_is_refused_by_name(clock):
    engine = TimedEngine(clock, max_context=least_context(16) - 1)
    with pytest.raises(SettingError, match="max_context must be >= 46 for a window of 16"):
        Profiler(engine, limit=1.0)


def test_a_real_engine_is_profiled(make_engine):
    engine = make_engine()
    points = Profiler(engine, limit=5.0).measure()
    assert [m.tokens for m in points.prefill] == request_sizes(8, 256 - 25)
    assert fit_time_model(points).model.step(100) > 0.0
