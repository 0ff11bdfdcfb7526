# SPDX-License-Identifier: Apache-2.0
"""What a server is put together from."""

from __future__ import annotations

from dataclasses import dataclass, field

from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import Engine
from timebill_ros.runtime.clock import Clock, seconds
from timebill_ros.runtime.coverage_tracker import CoverageTracker, RecentLengths
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.pace_tracker import PaceTracker, Slowdown
from timebill_ros.runtime.prediction import PredictionService
from timebill_ros.runtime.prompt_selection import PromptSelection


@dataclass(frozen=True)
class ServerParts:
    """The parts that every job meets, and the clocks that time it.

    Attributes:
        engine, time_model: see their rooms.
        name: of the engine, as the parameter ``engine`` names it.
        predictor: None where none is configured; then N_W = N_max.
        clock: deadlines are instants of this clock; simulated time may run at any rate.
        stopwatch: execution is measured with this one, which never jumps.
        predictor_grace: s that a finished prefill waits for a prediction that is not there yet,
            at most half of what is left.
        coverage: what the lengths of past responses say of the predictor's probabilities.
        pace: how fast past requests were, against the time model.
        slowdown: corrects the time model by past requests' times; None where its profile is good.
        quality: Q(rho, alpha) of the loaded model under its methods; None where not measured.
        selection: shortens prompts before prefill; None where they stay whole.
        recent_lengths: stands in for a prediction that there is not.
        model: name of the model; "" where nothing needs to be told from it.
        smaller: the same of every other model that may answer in its place, the largest first; all
            share the clocks.
    """

    engine: Engine
    time_model: TimeModel
    predictor: PredictionService | None
    clock: Clock
    stopwatch: Clock
    predictor_grace: float
    coverage: CoverageTracker = field(default_factory=CoverageTracker)
    pace: PaceTracker = field(default_factory=PaceTracker)
    slowdown: Slowdown | None = None
    quality: LeverQuality | None = None
    selection: PromptSelection | None = None
    recent_lengths: RecentLengths = field(default_factory=RecentLengths)
    name: str = "local"
    model: str = ""
    smaller: tuple[ServerParts, ...] = ()

    @property
    def models(self) -> tuple[ServerParts, ...]:
        """These parts and those of every smaller model."""
        return (self, *self.smaller)

    def model_of(self, job: Job) -> TimeModel:
        """The time model of this job: corrected by past requests, and with its tokens' choice."""
        profiled, slowdown = self.time_model, self.slowdown
        free = profiled if slowdown is None else slowdown.corrected(profiled)
        free = free.drawn() if (job.sampling.temperature or 0.0) > 0.0 else free
        return free.structured() if job.response_schema else free

    def time_left(self, job: Job) -> float:
        """Seconds of execution until the job's deadline, at the rate of the deadline's clock."""
        return seconds(job.deadline_ns - self.clock.now_ns()) / self.clock.rate

    def never_evicted(self, prompt_tokens: int) -> int:
        """Prompt tokens at its end that stay cached: all, where the engine evicts nothing."""
        engine = self.engine
        return engine.window if engine.capabilities.evicts else prompt_tokens
