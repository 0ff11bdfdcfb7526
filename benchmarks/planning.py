# SPDX-License-Identifier: Apache-2.0
"""How long one plan takes: equation (11) with its checks, and N_hat from a distribution."""

from __future__ import annotations

import argparse
import gc
import random
import time

import numpy as np
from machine import heading

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import Situation
from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.time_model import TimeModel

MODEL = TimeModel(6e-9, 1.5e-5, 2e-3, 5e-8, 2.5e-4, evict_rate=8e-7, evict_base=2e-4)


def main() -> None:
    """Plan random requests with budgets from hopeless to comfortable and print quantiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000)
    arguments = parser.parse_args()
    planner, rng = TimeBillPlanner(), random.Random(0)
    weights = np.random.default_rng(0).dirichlet(np.ones(32))
    lengths = LengthDistribution(weights, bucket_size=16)
    times = np.empty(arguments.plans)
    alphas = np.empty(arguments.plans)
    gc.disable()
    for i in range(arguments.plans):
        prompt_tokens, remaining = rng.randint(1, 8192), rng.uniform(-0.1, 0.5)
        start = time.perf_counter_ns()
        predicted = lengths.predicted_tokens(400)
        situation = Situation(prompt_tokens, 400, predicted, 16, 0.1, remaining)
        alphas[i] = planner.plan(situation, MODEL).alpha
        times[i] = time.perf_counter_ns() - start
    p50, p99, worst = np.quantile(times, [0.5, 0.99, 1.0]) / 1e3
    evicting = np.mean((alphas > 0) & (alphas < planner.alpha_max))
    print(heading("Planning time"))
    print(f"{arguments.plans} plans, {evicting:.0%} with 0 < alpha < alpha_max")
    print(f"p50 {p50:.1f} us   p99 {p99:.1f} us   max {worst:.1f} us   (goal: p99 < 200 us)")


if __name__ == "__main__":
    main()
