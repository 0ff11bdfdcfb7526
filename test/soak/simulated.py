# SPDX-License-Identifier: Apache-2.0
"""Soak in virtual time: exactly one terminal outcome for each of a million instructions.

Each round is a server of its own, drawn from a seed: policies that change, machines that are not as
profiled, clocks that jump, random cancels, parts that fail. A violation is reported with its seed,
and ``--first-seed SEED --instructions 1`` runs that round again, exactly as it was. A run that was
ended says from which seed to go on.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from timebill_ros.engine.request import Conversation, Turn
from timebill_ros.runtime.admission import Limits, Preparation, Reception, fault_of
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.engine_chain import ChainedEngine, EngineChain
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import (
    JobStopped,
    Observer,
    Outcome,
    Overrun,
    Partial,
    Periodically,
    Reason,
    Response,
    Stage,
)
from timebill_ros.runtime.pace_tracker import PaceTracker, Slowdown
from timebill_ros.runtime.policy import OverrunPolicy
from timebill_ros.runtime.quote import Quotes
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.simulation import (
    ScaledClock,
    SimulatedRequest,
    VirtualClock,
    serve_all,
)

from .world import (
    PROFILE,
    FailingEngine,
    FailingPredictor,
    FailingSelection,
    Odds,
    draw_coverage,
    draw_decisions,
    draw_quality,
    draw_request,
    draw_slowness,
)

ROUND = 1000  # instructions
_MS = 1_000_000
_LIMITS = Limits(default_budget=2.0, max_budget=60.0, max_prompt_chars=5000)
_REPORT_PERIOD = 10.0  # s


@dataclass
class Round:
    """One server's life, from its first instruction to its last outcome."""

    seed: int
    instructions: int = ROUND
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rng = self._rng = random.Random(self.seed)
        self._odds = Odds.draw(rng)
        self._real = VirtualClock()
        self._clock = ScaledClock(
            self._real, rate=rng.choice([1.0, 1.0, 0.5, 3.0]), start_ns=NS_PER_S
        )
        requests: dict[str, SimulatedRequest] = {}
        self._requests = requests
        parts = self._draw_parts(rng, "first")
        if rng.random() < 0.3:
            parts = replace(parts, smaller=(self._draw_parts(rng, "small"),))
        others = [self._draw_parts(rng, "second")] if rng.random() < 0.3 else []
        self._decided = draw_decisions(rng)
        self._skip_next = self._decided.policy is OverrunPolicy.SKIP_NEXT
        smaller = [each.engine for each in parts.smaller]
        chain = EngineChain(
            parts, [ChainedEngine(each, Preparation(each.engine, 400)) for each in others]
        )
        self._quotes = Quotes(chain, self._decided, Preparation(parts.engine, 400, smaller))
        self._server = Server(
            parts,
            self._decided,
            prepare=self._quotes,
            chain=chain,
            queue_capacity=rng.choice([0, 1, 4, 16, 16, 100]),
            emit=self.hear,
            observe=self._observer,
        )
        self._spacing_ns = rng.choice([20, 50, 200]) * _MS  # mean time between instructions
        self._jobs: list[Job] = []
        self._terminal: Counter[int] = Counter()
        self._late: Counter[int] = Counter()

    def _draw_parts(self, rng: random.Random, name: str) -> ServerParts:
        """What jobs meet on one engine."""
        requests, odds = self._requests, self._odds
        engine = FailingEngine(
            rng,
            odds,
            self._real,
            PROFILE,
            requests,
            chunk=rng.choice([64, 512]),
            slowness=draw_slowness(rng),
        )
        predictor = FailingPredictor(rng, odds, self._real, PROFILE, requests)
        return ServerParts(
            engine=engine,
            time_model=PROFILE,
            predictor=rng.choice([predictor, predictor, None]),
            clock=self._clock,
            stopwatch=self._real,
            predictor_grace=rng.choice([0.0, 0.05]),
            coverage=draw_coverage(rng),
            pace=PaceTracker(prefill_error=rng.choice([0.0, 0.1])),
            slowdown=rng.choice([None, Slowdown()]),
            quality=draw_quality(rng),
            selection=rng.choice([None, None, FailingSelection(rng, odds, requests)]),
            name=name,
        )

    def run(self) -> None:
        """Send all instructions, let all happen, and look whether the promises were kept."""
        for _ in range(self.instructions):
            self._real.at(self._rng.randrange(self.instructions * self._spacing_ns), self._send)
        for happen in (self._cancel, self._cancel_all, self._reopen, self._decide, self._jump):
            for _ in range(self._rng.randrange(1 + self.instructions // 50)):
                self._real.at(self._rng.randrange(self.instructions * self._spacing_ns), happen)
        serve_all(self._server)
        while self._real.advance_to_next_event():
            serve_all(self._server)
        self._server.open()
        self._check()

    def _send(self) -> None:
        """What the node does with an instruction when it receives it."""
        job = self._draw_job()
        self._jobs.append(job)
        received = Reception(self._clock.now_ns(), self._clock.now_ns())
        fault = fault_of(job, received, _LIMITS)
        if fault is None:
            if self._rng.random() < 0.05:
                self._quote(job)
            self._server.submit(job)
        else:
            self._server.reject(job, fault)

    def _quote(self, job: Job) -> None:
        """What a client may ask before it sends; a part that fails fails the quote alone."""
        try:
            quote = self._quotes.quote(job)
        except (JobStopped, MemoryError):
            return
        if not 0.0 <= quote.in_time <= 1.0:
            self._violated(job, f"in_time is {quote.in_time}")

    def _draw_job(self) -> Job:
        rng, number = self._rng, len(self._jobs)
        prompt = f"prompt {number}"
        self._requests[prompt] = draw_request(rng)
        if rng.random() < 0.03:
            prompt = rng.choice(["", " ", "st\ufffdp", "x" * 6000])
        turns = ()
        if rng.random() < 0.05:
            turns = (Turn(rng.choice(["user", "assistant", "tool"]), rng.choice(["go", ""])),)
        release_ns = self._clock.now_ns() + rng.choice([0, 0, -50, 50]) * _MS
        budget_ms = rng.choice([-50, 0, 1, 8, *[20, 40, 80, 400, 3000] * 4, 10**6])
        return Job(
            f"id {rng.randrange(1 + self.instructions // 3)}",
            Conversation("", prompt, turns),
            release_ns,
            release_ns + budget_ms * _MS,
            max_tokens=rng.choice([*[None] * 8, 1, 10, 10, 20000]),
            response_schema=rng.choice(["", "", "{}"]),
            deadline_field=rng.choice(["budget", "deadline"]),
            fallback_text=rng.choice(["", "", "", "stop"]),
        )

    def _cancel(self) -> None:
        if self._jobs:
            job = self._rng.choice(self._jobs[-20:])
            if self._server.cancel(job, "withdrawn") and self._terminal[id(job)] > 1:
                self._violated(job, "was canceled although it had ended")

    def _cancel_all(self) -> None:
        self._server.cancel_all("all withdrawn")

    def _reopen(self) -> None:
        self._server.close("inactive")
        if self._rng.random() < 0.3:
            self._server.abandon("the engine did not stop")
        self._real.at(self._real.now_ns() + self._rng.randrange(200 * _MS), self._server.open)

    def _decide(self) -> None:
        self._decided = draw_decisions(self._rng)
        self._skip_next |= self._decided.policy is OverrunPolicy.SKIP_NEXT
        self._quotes.decide(self._decided)
        self._server.decide(self._decided)

    def _jump(self) -> None:
        by_ns = self._rng.randrange(-NS_PER_S, NS_PER_S)
        self._clock.jump(by_ns)
        if by_ns < 0:
            self._server.rewind("clock: jumped back")

    def _observer(self, job: Job) -> Observer | None:
        if self._rng.random() < self._odds.listener:
            raise RuntimeError("nobody can watch")
        if self._rng.random() < 0.5:
            return None
        return Periodically(self._show, 0.01, self._real)

    def _show(self, partial: Partial) -> None:
        if self._terminal[id(partial.job)]:
            self._violated(partial.job, "a partial response came after the end")
        if self._rng.random() < self._odds.listener:
            raise RuntimeError("the publisher is gone")

    def hear(self, outcome: Outcome) -> None:
        """Take one outcome of the server."""
        job = outcome.job
        if isinstance(outcome, Overrun) and not outcome.terminal:
            self._late[id(job)] += 1
            if self._terminal[id(job)]:
                self._violated(job, "LATE came after the end")
        else:
            self._terminal[id(job)] += 1
            self._check_one(outcome)
            name = outcome.reason.value if isinstance(outcome, Overrun) else "response"
            self.counts[name] += 1
        # Somebody replies at once, under the same id.
        if self._rng.random() < 0.02 and len(self._jobs) < 2 * self.instructions:
            self._send()
        if self._rng.random() < self._odds.listener:
            raise RuntimeError("the publisher is gone")

    def _check_one(self, outcome: Response | Overrun) -> None:
        job = outcome.job
        if isinstance(outcome, Response):
            if outcome.late != bool(self._late[id(job)]):
                self._violated(
                    job, f"late is {outcome.late}, LATE came {self._late[id(job)]} times"
                )
            if outcome.text == "stop" and outcome.job.fallback_text != "stop":
                self._violated(job, "was answered by a text that it did not bring")
            if not outcome.late and outcome.timing.slack < 0.0:
                self._violated(job, f"in time with a slack of {outcome.timing.slack} s")
        elif outcome.reason is Reason.SKIPPED and not self._skip_next:
            self._violated(job, "SKIPPED under another policy")
        elif outcome.reason in (Reason.SKIPPED, Reason.EXPIRED) and outcome.stage != Stage.QUEUED:
            self._violated(job, f"{outcome.reason} in {outcome.stage}")

    def _check(self) -> None:
        for job in self._jobs:
            if self._terminal[id(job)] != 1:
                self._violated(job, f"{self._terminal[id(job)]} terminal outcomes")
            if self._late[id(job)] > 1:
                self._violated(job, f"LATE {self._late[id(job)]} times")
        if self._server.queue_depth or not self._server.wait_until_idle(0.0):
            self.violations.append(f"seed {self.seed}: the server is not idle at the end")

    def _violated(self, job: Job, what: str) -> None:
        self.violations.append(f"seed {self.seed}: {job.id!r}: {what}")


def rounds(first_seed: int, instructions: int) -> Iterator[Round]:
    """Whole rounds until so many instructions were sent; a last one that is smaller is not cut."""
    sent, seed = 0, first_seed
    while sent < instructions:
        each = Round(seed)
        each.run()
        yield each
        sent += each.counts.total()
        seed += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds and report; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", type=int, default=1_000_000)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # failures are drawn by the thousand, and logged each
    counts: Counter[str] = Counter()
    begun = reported = time.monotonic()
    seed, memory = options.first_seed, 0
    try:
        for done in rounds(options.first_seed, options.instructions):
            counts += done.counts
            seed = done.seed + 1
            # Interpreter and trackers have their size after some rounds.
            if done.seed == options.first_seed + 20:
                memory = _peak_memory()
            for violation in done.violations:
                print(violation, flush=True)
            if done.violations:
                print(f"to repeat: --first-seed {done.seed} --instructions 1")
                return 1
            if time.monotonic() > reported + _REPORT_PERIOD:
                reported = time.monotonic()
                print(f"{counts.total()} instructions, next seed {seed}", flush=True)
    except KeyboardInterrupt:
        print(f"ended; to go on: --first-seed {seed}")
        return 130
    print(f"{counts.total()} instructions in {time.monotonic() - begun:.0f} s, each ended once:")
    print(", ".join(f"{name} {count}" for name, count in counts.most_common()))
    if memory:
        print(f"peak memory {memory} MiB after 21 rounds, {_peak_memory()} MiB at the end")
    return 0


def _peak_memory() -> int:
    """Of this process, MiB (kilobytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
