# SPDX-License-Identifier: Apache-2.0
"""A server on simulated parts, with times that are easy to add up."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import Planner, VanillaPlanner
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.request import NOTHING_SET, Conversation, SamplingOverride
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import Clock
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Observer, Outcome, Overrun, Response
from timebill_ros.runtime.pace_tracker import PaceTracker, Slowdown
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.prompt_selection import PromptSelection
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.simulation import (
    ScaledClock,
    SimulatedEngine,
    SimulatedPredictor,
    SimulatedRequest,
    VirtualClock,
    simulate,
)

MS = 1_000_000

# Prefill 1 ms per 100 tokens, a step 1 ms whatever the cache, no eviction time.
FLAT = TimeModel(a=0.0, b=1e-5, c=0.0, p=0.0, q=1e-3)
# A machine on which prefill takes a hundred times as long as it is believed to.
SLOW_PREFILL = {"time_model": replace(FLAT, b=1e-7), "real_times": FLAT}


@dataclass(frozen=True)
class SmallerModel:
    """Another model of a scene, with a name and what it has of its own.

    ``reads``: requests that it makes something else of than the largest model does.
    """

    name: str
    time_model: TimeModel
    quality: LeverQuality | None = None
    max_context: int = 16384
    reads: dict[str, SimulatedRequest] = field(default_factory=dict)


@dataclass
class Scene:
    """Runs jobs in virtual time and keeps what came of them."""

    time_model: TimeModel = FLAT
    planner: Planner = field(default_factory=VanillaPlanner)
    policy: OverrunPolicy = OverrunPolicy.KILL
    anytime_margin: float = 0.0
    predictor_time: Quadratic | None = None
    queue_capacity: int = 16
    predictor_grace: float = 0.05
    chunk: int = 100
    default_max_tokens: int = 400
    deadline_clock_over: Callable[[VirtualClock], Clock] = ScaledClock
    observe: Callable[[Job], Observer | None] = lambda _: None
    coverage: CoverageTracker = field(default_factory=CoverageTracker)
    time_risk: float = 0.0
    pace: PaceTracker = field(default_factory=PaceTracker)
    slowdown: Slowdown | None = None
    selection: PromptSelection | None = None
    quality: LeverQuality | None = None
    real_times: TimeModel | None = None  # where they are not what the time model says
    smaller: Sequence[SmallerModel] = ()
    max_context: int = 16384
    slowness: Callable[[], float] = lambda: 1.0  # of every piece of work, on top of that
    hear: Callable[[Outcome], None] = lambda _: None  # called with every outcome before it is kept

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.deadline_clock = self.deadline_clock_over(self.clock)
        self.requests: dict[str, SimulatedRequest] = {}
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome] = []
        self.instants: list[int] = []
        real = self.real_times or self.time_model
        engine = SimulatedEngine(
            self.clock,
            real,
            self.requests,
            max_context=self.max_context,
            chunk=self.chunk,
            slowness=self.slowness,
        )
        timed = TimeModel(**{**vars(self.time_model), "predictor": self.predictor_time})
        predictor = None
        if self.predictor_time is not None:
            predictor = SimulatedPredictor(self.clock, timed, self.requests)
        self.engine = engine
        self.predictor = predictor
        self.smaller_engines = [
            SimulatedEngine(
                self.clock,
                each.time_model,
                ChainMap(each.reads, self.requests),
                max_context=each.max_context,
                chunk=self.chunk,
            )
            for each in self.smaller
        ]
        self.server = Server(
            ServerParts(
                engine=engine,
                time_model=timed,
                predictor=predictor,
                clock=self.deadline_clock,
                stopwatch=self.clock,
                predictor_grace=self.predictor_grace,
                coverage=self.coverage,
                pace=self.pace,
                slowdown=self.slowdown,
                selection=self.selection,
                quality=self.quality,
                model="largest",
                smaller=tuple(map(self._smaller, self.smaller, self.smaller_engines)),
            ),
            Decisions(self.planner, self.policy, self.anytime_margin, self.time_risk),
            prepare=Preparation(engine, self.default_max_tokens, self.smaller_engines),
            queue_capacity=self.queue_capacity,
            emit=self._emit,
            observe=self.observe,
        )

    def _smaller(self, model: SmallerModel, engine: SimulatedEngine) -> ServerParts:
        return ServerParts(
            engine=engine,
            time_model=replace(model.time_model, predictor=self.predictor_time),
            predictor=self.predictor,
            clock=self.deadline_clock,
            stopwatch=self.clock,
            predictor_grace=self.predictor_grace,
            selection=self.selection,
            quality=model.quality,
            model=model.name,
        )

    def job(
        self,
        id: str,
        *,
        release_ms: int = 0,
        budget_ms: int = 1000,
        prompt_tokens: int = 1000,
        response_tokens: int = 11,
        predicted_tokens: int = 16,
        max_tokens: int | None = None,
        response_schema: str = "",
        least_complete: int = 1,
        lengths: LengthDistribution | None = None,
        sampling: SamplingOverride = NOTHING_SET,
        shared_tokens: int = 0,
    ) -> Job:
        self.requests[id] = SimulatedRequest(
            prompt_tokens,
            response_tokens,
            predicted_tokens,
            least_complete,
            lengths,
            shared_tokens=shared_tokens,
        )
        release_ns = release_ms * MS
        deadline_ns = release_ns + budget_ms * MS
        talk = Conversation("", id)
        job = Job(id, talk, release_ns, deadline_ns, max_tokens, response_schema, sampling=sampling)
        self.jobs.append(job)
        return job

    def run(self) -> list[Outcome]:
        simulate(self.server, self.clock, self.jobs)
        return self.outcomes

    def run_submitted(self) -> list[Outcome]:
        """Serve what the test has submitted itself."""
        simulate(self.server, self.clock, [])
        return self.outcomes

    def story(self) -> list[tuple[str, str, float]]:
        """(id, what, instant in ms) of each outcome, in order."""
        self.run()
        return [
            (o.job.id, o.reason.value if isinstance(o, Overrun) else "response", at / MS)
            for o, at in zip(self.outcomes, self.instants, strict=True)
        ]

    def response(self, id: str) -> Response:
        found = [o for o in self.outcomes if o.job.id == id and isinstance(o, Response)]
        assert len(found) == 1
        return found[0]

    def overrun(self, id: str) -> Overrun:
        found = [o for o in self.outcomes if o.job.id == id and isinstance(o, Overrun)]
        assert len(found) == 1
        return found[0]

    def _emit(self, outcome: Outcome) -> None:
        self.hear(outcome)
        self.outcomes.append(outcome)
        self.instants.append(self.clock.now_ns())
