# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from timebill_ros.budget.errors import ProfileFitError
from timebill_ros.budget.fit import (
    ChunkMeasurement,
    Measurement,
    ProfilePoints,
    fit_time_model,
    read_points,
)

SIZES = (64, 128, 256, 512, 1024, 2048, 3072, 4096)


def points(**changes: list[Measurement]) -> ProfilePoints:
    exact = {
        "prefill": [Measurement(n, 1e-8 * n * n + 2e-5 * n + 3e-3) for n in SIZES],
        "step": [Measurement(n, 1e-7 * n + 3e-4) for n in SIZES],
        "evict": [Measurement(n, 1e-6 * n + 1e-4) for n in SIZES],
        "structured": [Measurement(n, 1e-5 * (2, 4, 3)[i % 3]) for i, n in enumerate(SIZES)],
        "rank": [Measurement(n, 1e-7 * n * (2, 4, 3)[i % 3]) for i, n in enumerate(SIZES)],
        "render": [Measurement(n, 2e-6 * n) for n in SIZES],
        "predictor": [Measurement(n, 1e-9 * n * n + 1e-6 * n + 5e-4) for n in SIZES],
    }
    return ProfilePoints(**{**exact, **changes})


def test_exact_points_give_their_coefficients_back() -> None:
    fit = fit_time_model(points())
    m = fit.model
    assert (m.a, m.b, m.c) == pytest.approx((1e-8, 2e-5, 3e-3), rel=1e-6)
    assert (m.p, m.q) == pytest.approx((1e-7, 3e-4), rel=1e-6)
    assert (m.evict_rate, m.evict_base) == pytest.approx((1e-6, 1e-4), rel=1e-6)
    assert m.q_structured == pytest.approx(3e-5)
    assert (m.rank, m.render) == pytest.approx((3e-7, 2e-6))
    assert m.select(1000, 500) == pytest.approx(1.3e-3)
    assert m.predictor is not None
    assert m.predictor(1000) == pytest.approx(1e-3 + 1e-3 + 5e-4, rel=1e-6)
    assert max(fit.prefill_mape, fit.step_mape, fit.evict_mape) < 1e-9


def chunk_time(position: int, tokens: int) -> float:
    return 1e-2 + 1e-3 * tokens + 3e-7 * (tokens * position + tokens * (tokens + 1) / 2)


def prefill_time(tokens: int, chunk: int = 512) -> float:
    """Of chunks that come one after another, the remainder first."""
    done, seconds = 0, 0.0
    while done < tokens:
        size = (tokens - done) % chunk or chunk
        seconds += chunk_time(done, size)
        done += size
    return seconds


CHUNKS = [
    ChunkMeasurement(position, tokens, chunk_time(position, tokens))
    for position, tokens in ((0, 32), (0, 128), (0, 512), (512, 512), (2000, 512), (7600, 512))
]


def test_a_prefill_is_the_sum_of_its_chunks() -> None:
    whole = [Measurement(n, prefill_time(n)) for n in (300, 1400)]
    fit = fit_time_model(points(chunks=CHUNKS, chunk_size=512, prefill=whole))
    for tokens in (40, 300, 700, 1024, 3000, 8000):
        assert fit.model.prefill(tokens) == pytest.approx(prefill_time(tokens), rel=0.02)
    assert fit.model.a == pytest.approx(1.5e-7, rel=0.05)
    assert fit.prefill_mape < 0.02
    assert fit.longest_prefill == 7600 + 512


def test_whole_prefills_check_what_follows_from_the_chunks() -> None:
    whole = [Measurement(n, 1.25 * prefill_time(n)) for n in (300, 1400)]
    fit = fit_time_model(points(chunks=CHUNKS, chunk_size=512, prefill=whole))
    assert fit.model.prefill(3000) == pytest.approx(prefill_time(3000), rel=0.02)
    assert fit.prefill_mape == pytest.approx(0.2, abs=0.02)
    assert "misses held-out prefill times by 2" in fit.disturbance


def test_points_come_back_from_json() -> None:
    kept = points(chunks=CHUNKS, chunk_size=512, spread=0.02)
    content = json.loads(json.dumps(asdict(kept)))
    assert json.loads(json.dumps(asdict(read_points(content)))) == content


def test_error_is_reported_on_points_that_were_not_fitted() -> None:
    # Every second size is off by a tenth: the fit never sees it, the error must.
    step = [
        Measurement(n, (1e-7 * n + 3e-4) * (1.1 if i % 2 else 1.0)) for i, n in enumerate(SIZES)
    ]
    fit = fit_time_model(points(step=step))
    assert fit.model.p == pytest.approx(1e-7, rel=1e-6)
    assert fit.step_mape == pytest.approx(0.1 / 1.1)


def test_noise_never_makes_a_coefficient_negative() -> None:
    rng = np.random.default_rng(7)
    flat = [Measurement(n, 1e-3 * float(rng.uniform(0.9, 1.1))) for n in SIZES]
    for seed_points in (flat, [Measurement(n, 2e-3 - 1e-7 * n) for n in SIZES]):
        fit = fit_time_model(points(step=seed_points, prefill=seed_points))
        assert min(fit.model.a, fit.model.b, fit.model.c, fit.model.p, fit.model.q) >= 0.0
        assert fit.model.step(1024) == pytest.approx(1.5e-3, rel=0.5)


def test_without_predictor_points_there_is_no_predictor_time() -> None:
    assert fit_time_model(points(predictor=[])).model.predictor is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": [Measurement(64, 0.01), Measurement(128, 0.02)]}, "prefill: 2 points"),
        ({"step": [Measurement(64, 0.01)] * 6}, "step: 6 points are too few"),
        ({"evict": [Measurement(n, math.nan) for n in SIZES]}, "evict: nan s"),
        ({"step": [Measurement(n, 0.0) for n in SIZES]}, "step: 0.0 s"),
        ({"chunks": CHUNKS[:2], "chunk_size": 512}, "prefill: 2 chunks and 8 whole"),
        ({"chunks": CHUNKS, "chunk_size": 512, "prefill": []}, "6 chunks and 0 whole"),
    ],
)
def test_what_cannot_be_fitted_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ProfileFitError, match=message):
        fit_time_model(points(**changes))
