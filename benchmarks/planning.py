# SPDX-License-Identifier: Apache-2.0
"""How long one plan takes: equation (11) with its checks, N_W from a distribution; and the default.

The planner ``expected`` is asked for one of two models and rho before prefill, and for alpha after
it.
"""

from __future__ import annotations

import argparse
import gc
import random
import time

import numpy as np
from machine import heading
from numpy.typing import NDArray

from timebill_ros.budget.calibration import fit_calibration
from timebill_ros.budget.expected import ALPHAS, SHARES, ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import ModelOption, Situation
from timebill_ros.budget.planners import Planner, TimeBillPlanner
from timebill_ros.budget.quality import PRIOR, LeverQuality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.runtime.pace_tracker import PaceTracker

QUALITY = LeverQuality(PRIOR, PRIOR)
MODEL = TimeModel(6e-9, 1.5e-5, 2e-3, 5e-8, 2.5e-4, evict_rate=8e-7, evict_base=2e-4)
SMALLER = MODEL.slowed(0.25, 0.25)
# With the time risk that goes with each.
PLANNERS: dict[str, tuple[Planner, float]] = {
    "pessimism 5": (TimeBillPlanner(), 0.0),
    "risk 0.05": (TimeBillPlanner(risk=0.05), 0.0),
    "both risks": (TimeBillPlanner(risk=0.05), 0.05),
    "expected": (ExpectedPlanner(), 0.0),
    "expected, both risks": (ExpectedPlanner(risk=0.05), 0.05),
    "hedged": (ExpectedPlanner(hedges=True), 0.0),
    "hedged, both risks": (ExpectedPlanner(risk=0.05, hedges=True), 0.05),
}


def main() -> None:
    """Plan random requests with budgets from hopeless to comfortable and print quantiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000)
    arguments = parser.parse_args()
    print(heading("Planning time"))
    print(f"{arguments.plans} plans each; goal: p99 < 200 us, of expected and hedged < 1 ms")
    print(f"expected: two models, {len(SHARES)} shares, {len(ALPHAS)} ratios")
    for name, (planner, time_risk) in PLANNERS.items():
        times, alphas = plan_many(planner, time_risk, arguments.plans)
        p50, p99, worst = np.quantile(times, [0.5, 0.99, 1.0]) / 1e3
        evicting = np.mean((alphas > 0) & (alphas < 0.95))
        print(
            f"{name:20}  p50 {p50:.1f} us   p99 {p99:.1f} us   max {worst:.1f} us   "
            f"{evicting:.0%} with 0 < alpha < alpha_max"
        )


def plan_many(
    planner: Planner, time_risk: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ns and alpha of each plan, made from a distribution over 100 buckets."""
    rng = random.Random(0)
    draws = np.random.default_rng(0)
    lengths = LengthDistribution(draws.dirichlet(np.ones(100)), bucket_size=4)
    actual = draws.integers(1, 401, 1000).tolist()
    tracker = CoverageTracker(fit_calibration([lengths] * 1000, actual))
    times_seen = PaceTracker()
    for measured in draws.gamma(20.0, 0.05, 100):
        times_seen.observe(measured, profiled=1.0)
    times, alphas = np.empty(count), np.empty(count)
    gc.disable()
    for i in range(count):
        prompt_tokens, remaining = rng.randint(1, 8192), rng.uniform(-0.1, 0.5)
        start = time.perf_counter_ns()
        predicted, known = lengths.predicted_tokens(400), tracker.assess(lengths)
        pace = times_seen.pace(time_risk)
        situation = Situation(
            prompt_tokens, 400, predicted, 16, 0.1, remaining, known, pace, QUALITY
        )
        if isinstance(planner, ExpectedPlanner):
            planner.choose([ModelOption(situation, times, SHARES) for times in (MODEL, SMALLER)])
        alphas[i] = planner.plan(situation, MODEL).alpha
        times[i] = time.perf_counter_ns() - start
    gc.enable()
    return times, alphas


if __name__ == "__main__":
    main()
