# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.budget.fit import fit_predictor
from timebill_ros.engine import profile_predictor as module
from timebill_ros.engine.profile_predictor import profile_predictor


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
