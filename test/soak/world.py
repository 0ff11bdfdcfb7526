# SPDX-License-Identifier: Apache-2.0
"""A server in virtual time in which everything goes wrong that can, drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.planners import FixedPlanner, Planner, TimeBillPlanner, VanillaPlanner
from timebill_ros.budget.quality import PRIOR, LeverQuality
from timebill_ros.budget.time_model import Quadratic, TimeModel
from timebill_ros.engine.errors import (
    RequestError,
    SchemaRefused,
    ServerFault,
    ServerUnavailable,
)
from timebill_ros.engine.request import NOTHING_SET, Conversation, PreparedRequest, SamplingOverride
from timebill_ros.runtime.coverage_tracker import CoverageTracker
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.simulation import (
    SimulatedEngine,
    SimulatedPrediction,
    SimulatedPredictor,
    SimulatedRequest,
)

# A prompt of 1,000 tokens takes 12 ms to prefill, a step 1 ms and 1 us per cached token.
PROFILE = TimeModel(
    a=1e-9,
    b=1e-5,
    c=1e-3,
    p=1e-6,
    q=1e-3,
    evict_rate=1e-6,
    evict_base=1e-4,
    q_structured=2e-4,
    predictor=Quadratic(0.0, 5e-6, 1e-3),
)


@dataclass(frozen=True)
class Odds:
    """How often each part fails when it is asked, as shares."""

    prepare: float
    begin: float
    prefill: float
    step: float
    text: float
    predictor: float
    listener: float
    server: float

    @classmethod
    def draw(cls, rng: random.Random) -> Odds:
        """A world in which all is well, or some part fails now and then, or often."""
        scale = rng.choice([0.0, 0.0, 0.2, 1.0])
        return cls(
            prepare=0.05 * scale,
            begin=0.02 * scale,
            prefill=0.01 * scale,
            step=0.001 * scale,
            text=0.02 * scale,
            predictor=0.2 * scale,
            listener=0.05 * scale,
            server=0.01 * scale,
        )


class FailingEngine(SimulatedEngine):
    """A simulated engine that raises what engines raise, where they raise it."""

    def __init__(self, rng: random.Random, odds: Odds, *args: Any, **options: Any) -> None:
        """Fail with these odds."""
        self._rng, self._odds = rng, replace(odds, text=0.0)
        super().__init__(*args, **options)
        self._odds = odds

    def prepare(
        self,
        conversation: Conversation,
        response_schema: str = "",
        sampling: SamplingOverride = NOTHING_SET,
    ) -> PreparedRequest:
        """Refuse the request, or run out of memory, or prepare it."""
        self._maybe(
            self._odds.prepare, RequestError("no"), SchemaRefused("no"), MemoryError("no room")
        )
        return super().prepare(conversation, response_schema, sampling)

    def begin(self, request: PreparedRequest, max_tokens: int, *, ignore_eos: bool = False) -> None:
        """Run out of memory for the cache, or begin."""
        self._maybe(self._odds.begin, MemoryError("no room for the cache"), RequestError("no"))
        super().begin(request, max_tokens, ignore_eos=ignore_eos)

    def prefill_chunk(self) -> bool:
        """Run out of memory, or go on."""
        self._maybe(self._odds.prefill, MemoryError("no room"), RuntimeError("CUDA error"))
        self._maybe(self._odds.server, ServerUnavailable("gone"), ServerFault("HTTP 400"))
        return super().prefill_chunk()

    def step(self) -> None:
        """Get a NaN, or go on."""
        self._maybe(self._odds.step, ArithmeticError("NaN in the logits"), MemoryError("no room"))
        self._maybe(self._odds.step, ServerUnavailable("ReadError"))
        super().step()

    def text(self) -> str:
        """Fail to tell, or tell."""
        self._maybe(self._odds.text, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"))
        return super().text()

    def complete_prefix(self) -> str:
        """Fail to tell, or tell."""
        self._maybe(self._odds.text, ValueError("no JSON"))
        return super().complete_prefix()

    def abort(self) -> None:
        """Fail to give up, or give up."""
        super().abort()
        self._maybe(self._odds.text, ConnectionError("the server is gone"))

    def _maybe(self, odds: float, *failures: Exception) -> None:
        if self._rng.random() < odds:
            raise self._rng.choice(failures)


class FailingPredictor(SimulatedPredictor):
    """A simulated predictor that raises, at once or when it is asked for its answer."""

    def __init__(self, rng: random.Random, odds: Odds, *args: Any) -> None:
        """Fail with these odds."""
        super().__init__(*args)
        self._rng, self._odds = rng, odds

    def start(self, text: str, prompt_ids: object, max_input: int) -> SimulatedPrediction:
        """Raise, or begin a prediction that will raise, or one that will not."""
        prediction = super().start(text, prompt_ids, max_input)  # type: ignore[arg-type]
        if self._rng.random() >= self._odds.predictor:
            return prediction
        if self._rng.random() < 0.3:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return _BrokenPrediction(
            prediction.clock, prediction.started_ns, prediction.ready_ns, prediction.lengths
        )


class _BrokenPrediction(SimulatedPrediction):
    def wait(self, timeout: float) -> LengthDistribution:
        super().wait(timeout)
        return LengthDistribution(np.array([np.nan, 1.0]), 16)  # raises ValueError


@dataclass
class FailingSelection:
    """Shortens prompts, which the engine knows by name, and raises now and then."""

    rng: random.Random
    odds: Odds
    requests: dict[str, SimulatedRequest]
    least_share: float = 0.0
    shares: Sequence[float] = (1.0, 0.5, 0.1)
    prompt: str = ""

    def rank(self, conversation: Conversation, prompt_tokens: int) -> FailingSelection:
        """Take the prompt, or fail to read it."""
        if self.rng.random() < self.odds.prepare:
            raise ValueError("no passages")
        return replace(self, prompt=conversation.prompt, least_share=self.rng.choice([0.0, 0.3]))

    def select(self, share: float) -> Conversation:
        """The name of so much of the prompt."""
        whole, name = self.requests[self.prompt], f"{self.prompt}@{share:g}"
        tokens = max(1, round(share * whole.prompt_tokens))
        self.requests[name] = replace(whole, prompt_tokens=tokens, shared_tokens=0)
        return Conversation("", name)


def draw_quality(rng: random.Random) -> LeverQuality | None:
    """Levers whose price was measured, or not."""
    return rng.choice([None, LeverQuality(), LeverQuality(PRIOR, PRIOR, measured=True)])


def draw_slowness(rng: random.Random) -> Callable[[], float]:
    """A machine as profiled, or one that is slower, faster, drifting, or of two minds."""
    kind = rng.choice(["as profiled", "slower", "faster", "drifting", "bimodal"])
    factor = rng.uniform(1.1, 3.0)
    state = [1.0]

    def drift() -> float:
        state[0] = min(4.0, max(0.25, state[0] * rng.uniform(0.99, 1.01)))
        return state[0]

    return {
        "as profiled": lambda: 1.0,
        "slower": lambda: factor,
        "faster": lambda: 1.0 / factor,
        "drifting": drift,
        "bimodal": lambda: factor * 3.0 if rng.random() < 0.1 else 1.0,
    }[kind]


def draw_decisions(rng: random.Random) -> Decisions:
    """Any planner under any policy."""
    planner: Planner = rng.choice(
        [
            VanillaPlanner(),
            FixedPlanner(alpha=rng.random() * 0.99),
            ExpectedPlanner(rng.choice([0.0, 0.95]), rng.choice([0.0, 0.0, 0.05, 0.5])),
            ExpectedPlanner(risk=rng.choice([0.0, 0.1]), hedges=rng.random() < 0.5),
            TimeBillPlanner(pessimism=rng.choice([1.0, 5.0]), risk=rng.choice([0.0, 0.05, 0.5])),
        ]
    )
    return Decisions(
        planner,
        rng.choice(list(OverrunPolicy)),
        anytime_margin=rng.choice([0.0, 0.001, 0.02]),
        time_risk=rng.choice([0.0, 0.05]),
        rejects_hopeless=rng.random() < 0.2,
    )


def draw_request(rng: random.Random) -> SimulatedRequest:
    """Prompts from nothing to more than the context, answers shorter and longer than predicted."""
    response_tokens = rng.choice([1, 2, rng.randrange(1, 60), rng.randrange(1, 400)])
    lengths = None
    if rng.random() < 0.5:
        weights = np.array([rng.random() for _ in range(8)])
        lengths = LengthDistribution(weights / weights.sum(), 16)
    prompt_tokens = rng.choice([0, 20000, *[1, 17, 300, 1000, 3000] * 4])
    longer = rng.choice([1, 1, 3])
    return SimulatedRequest(
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        predicted_tokens=rng.randrange(1, 400),
        least_complete=rng.choice([1, 1, 5, 1000]),
        lengths=lengths,
        after_eviction=rng.choice([None, lambda _: response_tokens * longer]),
        shared_tokens=rng.choice([0, 0, prompt_tokens // 2, max(0, prompt_tokens - 1)]),
    )


def draw_coverage(rng: random.Random) -> CoverageTracker:
    """A tracker with windows that fill and turn over within a round."""
    return CoverageTracker(window=rng.choice([20, 200]))
