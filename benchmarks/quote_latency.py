# SPDX-License-Identifier: Apache-2.0
"""How long a quote takes, tokenising included, by the length of the prompt.

python benchmarks/quote_latency.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from machine import machine

from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.clock import NS_PER_S, MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.running_server import start_server
from timebill_ros.runtime.settings import Settings
from timebill_ros.workload.tasks import sample_family, sample_task


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quotes", type=int, default=200)
    options = parser.parse_args()
    clock, rng = MonotonicClock(), np.random.default_rng(0)
    running = start_server(
        Settings(),
        clock=clock,
        emit=lambda _: None,
        observe=lambda _: None,
        progress=lambda *_: None,
    )
    print(machine())
    print(f"{'prompt tokens':>14}{'p50 ms':>9}{'p99 ms':>9}")
    try:
        for tokens in (100, 500, 2000, 8000):
            times = []
            for number in range(options.quotes):
                task = sample_task(rng, sample_family(rng), tokens)
                now = clock.now_ns()
                said = Conversation(task.system, task.instruction)
                job = Job(f"{number}", said, now, now + NS_PER_S)
                before = time.perf_counter()
                running.quotes.quote(job)
                times.append((time.perf_counter() - before) * 1e3)
            p50, p99 = np.quantile(times, [0.5, 0.99])
            print(f"{tokens:>14}{p50:>9.2f}{p99:>9.2f}")
    finally:
        running.server.close("the benchmark is over")
        running.release(10.0)


if __name__ == "__main__":
    main()
