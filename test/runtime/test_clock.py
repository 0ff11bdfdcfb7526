# SPDX-License-Identifier: Apache-2.0
"""The rate of a clock, from samples that come when they please."""

from __future__ import annotations

import numpy as np
import pytest

from timebill_ros.runtime.clock import ClockRate

from .simulated import MS


def sampled(pairs: list[tuple[float, float]]) -> float:
    """The rate after samples of (clock, real time), in ms."""
    rate = ClockRate()
    for clock_ms, real_ms in pairs:
        rate.sample(round(clock_ms * MS), round(real_ms * MS))
    return rate.value


def test_the_rate_is_one_until_it_is_known() -> None:
    assert sampled([]) == 1.0
    assert sampled([(0.0, 0.0), (500.0, 100.0), (1000.0, 200.0)]) == 1.0
    assert sampled([(500.0 * n, 100.0 * n) for n in range(4)]) == pytest.approx(5.0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("period_ms", [1.0, 10.0, 25.0, 100.0, 1000.0])
def test_the_rate_is_measured_whatever_the_period_of_the_clock(
    rate: float, period_ms: float
) -> None:
    samples = [(rate * period_ms * n, 7.0 + period_ms * n) for n in range(1000)]
    assert sampled(samples) == pytest.approx(rate)


def test_messages_that_come_late_hardly_move_the_rate() -> None:
    rng = np.random.default_rng(3)
    delays = rng.exponential(5.0, 500)
    samples = [(2.0 * 10.0 * n, 10.0 * n + delay) for n, delay in enumerate(delays)]
    assert sampled(samples) == pytest.approx(2.0, rel=0.1)


def test_a_pause_does_not_count() -> None:
    running = [(2.0 * 20.0 * n, 20.0 * n) for n in range(100)]
    end_ms, real_ms = running[-1]
    told = [(end_ms, real_ms + 20.0 * n) for n in range(500)]  # the same instant again and again
    assert sampled(running + told) == pytest.approx(2.0)
    resumed = [(end_ms + 2.0 * 20.0 * n, real_ms + 10_000.0 + 20.0 * n) for n in range(10)]
    assert sampled([*running, *resumed]) == pytest.approx(2.0)


def test_jumps_do_not_count_either_way() -> None:
    running = [(2.0 * 20.0 * n, 20.0 * n) for n in range(100)]
    for jump_ms in (-3000.0, 60_000.0):
        jumped = [(c + jump_ms, r + 2000.0) for c, r in running[:20]]
        assert sampled(running + jumped) == pytest.approx(2.0)


def test_one_late_message_never_decides_the_rate_of_a_slow_clock() -> None:
    samples = [(2000.0 * n, 1000.0 * n) for n in range(10)]
    samples[5] = (samples[5][0], samples[5][1] + 800.0)
    assert all(sampled(samples[:n]) == pytest.approx(2.0) for n in range(4, 11))


@pytest.mark.parametrize(("period_ms", "known_ms"), [(20.0, 1000.0), (1000.0, 3000.0)])
def test_a_new_rate_is_known_soon(period_ms: float, known_ms: float) -> None:
    slow = [(period_ms * n, period_ms * n) for n in range(round(4000.0 / period_ms) + 1)]
    end_ms, real_ms = slow[-1]
    ticks = range(1, round(known_ms / period_ms) + 1)
    fast = [(end_ms + 5.0 * period_ms * n, real_ms + period_ms * n) for n in ticks]
    assert sampled(slow + fast) == pytest.approx(5.0)
