# SPDX-License-Identifier: Apache-2.0
"""What it is worth not to start jobs whose prefill alone would outlast their deadline.

In virtual time: jobs arrive at random at four loads, with prompts and budgets of many lengths, and
are served under Kill with the check and without it. The machine may be slower or faster than its
profile; the check knows only the profile and what it sees.
"""

from __future__ import annotations

import random

from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Response
from timebill_ros.runtime.pace_tracker import PaceTracker
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.simulation import (
    SimulatedEngine,
    SimulatedRequest,
    VirtualClock,
    simulate,
)

# An embedded board: 1,000 prompt tokens take 0.12 s to prefill, a step over them 2.8 ms.
BOARD = TimeModel(a=2.6e-8, b=7e-5, c=2.4e-2, p=1e-6, q=1.8e-3, evict_rate=4e-6)
LOADS = (1.0, 2.0, 4.0, 8.0)  # instructions per second
SPEEDS = (1.0, 1.3, 0.8)
JOBS, SEEDS = 300, 10


class Tries(PaceTracker):
    """Starts every job, as if each prefill might end in time."""

    def prefill_fits(self, profiled: float, remaining: float) -> bool:
        """Always."""
        return True


def answered(pace: PaceTracker, load: float, speed: float, seed: int) -> int:
    """Jobs that are answered in time."""
    rng = random.Random(seed)
    clock = VirtualClock()
    requests: dict[str, SimulatedRequest] = {}
    engine = SimulatedEngine(clock, BOARD, requests, window=64, chunk=512, slowness=lambda: speed)
    outcomes: list[Outcome] = []
    parts = ServerParts(
        engine=engine,
        time_model=BOARD,
        predictor=None,
        clock=clock,
        stopwatch=clock,
        predictor_grace=0.0,
        pace=pace,
    )
    server = Server(
        parts,
        Decisions(TimeBillPlanner(), OverrunPolicy.KILL),
        prepare=Preparation(engine, 100),
        queue_capacity=16,
        emit=outcomes.append,
    )
    jobs, release = [], 0.0
    for number in range(JOBS):
        name = f"{number}"
        requests[name] = SimulatedRequest(rng.randrange(500, 6000), rng.randrange(5, 100), 64)
        release += rng.expovariate(load)
        release_ns = round(release * NS_PER_S)
        deadline_ns = release_ns + round(rng.uniform(0.3, 2.0) * NS_PER_S)
        jobs.append(Job(name, Conversation("", name), release_ns, deadline_ns))
    simulate(server, clock, jobs)
    return sum(isinstance(outcome, Response) for outcome in outcomes)


def main() -> None:
    """Print one row per speed and load."""
    print("# answered in time under Kill, %, in virtual time")
    print(f"{'machine':>10}{'per s':>8}{'started all':>14}{'checked first':>15}")
    for speed in SPEEDS:
        for load in LOADS:
            shares = []
            for make in (Tries, PaceTracker):
                paces = [make(prefill_error=0.05) for _ in range(SEEDS)]
                total = sum(answered(paces[seed], load, speed, seed) for seed in range(SEEDS))
                shares.append(100.0 * total / (JOBS * SEEDS))
            print(f"{speed:>9}x{load:>8g}{shares[0]:>14.1f}{shares[1]:>15.1f}")


if __name__ == "__main__":
    main()
