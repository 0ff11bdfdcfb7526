# SPDX-License-Identifier: Apache-2.0
"""A profile taken on a busy machine, corrected by what requests take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.outcome import Response
from timebill_ros.runtime.slowdown import Slowdown

from .simulated import FLAT, Scene

# Three times as slow in prefill, and twice in decoding, as the machine is since.
BUSY = replace(FLAT, b=3 * FLAT.b, q=2 * FLAT.q)


def test_nothing_is_corrected_before_a_request() -> None:
    assert Slowdown().corrected(FLAT) == FLAT


@pytest.mark.parametrize(("believed", "real"), [(BUSY, FLAT), (FLAT, BUSY)])
def test_requests_correct_the_time_model_both_ways(believed: TimeModel, real: TimeModel) -> None:
    slowdown = Slowdown()
    scene = Scene(time_model=believed, real_times=real, slowdown=slowdown)
    for n in range(30):
        scene.job(f"job {n}", release_ms=n * 1000)
    outcomes = scene.run()
    model = slowdown.corrected(believed)
    assert model.prefill(1000) == pytest.approx(real.prefill(1000), rel=0.02)
    assert model.step(1000) == pytest.approx(real.step(1000), rel=0.02)
    # What is predicted to a client is corrected too.
    assert isinstance(outcomes[-1], Response)
    assert outcomes[-1].predicted_prefill == pytest.approx(real.prefill(1000), rel=0.02)


def test_one_disturbed_request_moves_little_and_is_forgotten() -> None:
    slowdown = Slowdown()
    slowdown.observe_decoding(3.0, 1.0)
    disturbed = slowdown.corrected(FLAT).step(0) / FLAT.step(0)
    assert 1.0 < disturbed < 1.3
    for _ in range(30):
        slowdown.observe_decoding(1.0, slowdown.corrected(FLAT).step(0) / FLAT.step(0))
    assert slowdown.corrected(FLAT).step(0) == pytest.approx(FLAT.step(0), rel=0.01)


@pytest.mark.parametrize(("measured", "expected"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_no_work_says_nothing(measured: float, expected: float) -> None:
    slowdown = Slowdown()
    slowdown.observe_prefill(measured, expected)
    slowdown.observe_decoding(measured, expected)
    assert slowdown.corrected(FLAT) == FLAT


def test_no_measurement_moves_it_without_bound() -> None:
    slowdown = Slowdown()
    for _ in range(100):
        slowdown.observe_prefill(1e6, 1e-6)
        slowdown.observe_decoding(1e-6, 1e6)
    model = slowdown.corrected(FLAT)
    assert model.prefill(1000) == pytest.approx(20.0 * FLAT.prefill(1000))
    assert model.step(0) == pytest.approx(FLAT.step(0) / 20.0)
