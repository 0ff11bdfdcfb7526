# SPDX-License-Identifier: Apache-2.0
"""Several engines for one queue: where one cannot answer, the next does, in the time left."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.runtime.admission import Prepare, PreparedJob, attempt
from timebill_ros.runtime.clock import NS_PER_S, Clock
from timebill_ros.runtime.execution import Execution
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import (
    JobStopped,
    Observer,
    Outcome,
    Overrun,
    Reason,
    Response,
    Stage,
    overrun_without_engine,
)
from timebill_ros.runtime.policy import Decisions
from timebill_ros.runtime.server_parts import ServerParts

_LOG = logging.getLogger(__name__)

FALLBACK_TEXT = "fallback_text"
"""What is told as the engine of an answer that the instruction brought with it."""

# Failures in a row until an engine is left alone, and for how long at first and at most, s.
_FAILURES = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
# Most of the time left that is kept for the next engine.
_MOST_RESERVED = 0.5
# Share of answers that may be longer than what is kept for.
_LONGER = 0.1
# How an instruction ends that its own text may answer instead.
_ANSWERABLE = {Reason.KILLED, Reason.FAILED, Reason.EXPIRED, Reason.SKIPPED}
_NO_PLAN = Plan("", 0.0, False, 0, (), 0, 0, 0.0, 0.0)


class CircuitBreaker:
    """Leaves an engine alone that keeps failing, twice as long each time; then one job tries it.

    So an engine that comes and goes costs few jobs the time to find out. For any thread.
    """

    def __init__(self, stopwatch: Clock) -> None:
        """Nothing has failed yet."""
        self._stopwatch = stopwatch
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = 0.0
        self._until_ns = 0

    def allows(self) -> bool:
        """Whether the engine may be tried now."""
        with self._lock:
            return self._stopwatch.now_ns() >= self._until_ns

    def tell(self, *, failed: bool) -> None:
        """Take in how a job ended on the engine."""
        with self._lock:
            if not failed:
                self._failures, self._pause, self._until_ns = 0, 0.0, 0
                return
            self._failures += 1
            if self._failures >= _FAILURES:
                self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2.0 * self._pause))
                self._until_ns = self._stopwatch.now_ns() + round(self._pause * NS_PER_S)

    @property
    def failures(self) -> int:
        """Failures in a row."""
        with self._lock:
            return self._failures


@dataclass
class ChainedEngine:
    """One engine of several, and how it has done.

    Attributes:
        parts: what jobs run on.
        prepare: makes a job ready for this engine.
        breaker: whether it is tried.
        answered: jobs that it answered, by the model's name.
    """

    parts: ServerParts
    prepare: Prepare
    breaker: CircuitBreaker = field(init=False)
    answered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.breaker = CircuitBreaker(self.parts.stopwatch)


class EngineChain:
    """Runs a job on the first engine that may be tried, and on the next where that gives it up.

    An engine gives a job up when its server fails, or has no token yet when the next engine needs
    the time that is left. The last engine is always tried.
    """

    def __init__(
        self,
        first: ServerParts,
        others: Sequence[ChainedEngine] = (),
        absent: Sequence[str] = (),
    ) -> None:
        """Jobs come prepared for the first; ``absent`` ones may join later."""
        self._first = ChainedEngine(first, _prepared_already)
        # Replaced as a whole where an engine joins: a job goes on with those that it began with.
        self._engines: tuple[ChainedEngine, ...] = (self._first, *others)
        self._absent = tuple(absent)
        self._lock = threading.Lock()
        self._canned = 0

    def join(self, engine: ChainedEngine, *, ahead: bool) -> None:
        """The next jobs have this engine too, tried before all others or after them."""
        now = self._engines
        self._engines = (engine, *now) if ahead else (*now, engine)
        self._absent = tuple(name for name in self._absent if name != engine.parts.name)

    def usable(self) -> list[ChainedEngine]:
        """The engines that a job may run on now, in the order in which it tries them."""
        *others, last = self._engines
        return [*(each for each in others if each.breaker.allows()), last]

    def prepared_for(
        self, engine: ChainedEngine, prepared: PreparedJob
    ) -> PreparedJob | JobStopped:
        """The job ready for one of the engines, or why it cannot be.

        Args:
            engine: one of this chain's.
            prepared: the job, for the first engine.
        """
        return prepared if engine is self._first else attempt(engine.prepare, prepared.job)

    def run(
        self,
        prepared: PreparedJob,
        decided: Decisions,
        *,
        canceled: Callable[[], str | None],
        tell_late: Callable[[Overrun], None],
        watch: Callable[[Execution], bool],
        observe: Callable[[Job], Observer | None],
    ) -> Outcome:
        """Run a job to its one terminal outcome.

        Args:
            prepared: the job, for the first engine.
            decided: how it is planned, and what its deadline means.
            canceled: see ``Execution``.
            tell_late: see ``Execution``.
            watch: told of every execution before it runs; False where the job is over already.
            observe: says who watches the response grow.
        """
        usable = self.usable()
        outcome: Outcome | None = None
        observer = _observer(observe, prepared.job)
        for engine, following in zip(usable, [*usable[1:], None], strict=True):
            own = self.prepared_for(engine, prepared)
            if isinstance(own, JobStopped):
                if outcome is None:  # what is before it is left alone, but could have answered
                    told, now_ns = f"{engine.parts.name}: {own.detail}", engine.parts.clock.now_ns()
                    outcome = overrun_without_engine(
                        prepared.job, Reason.FAILED, Stage.QUEUED, told, now_ns
                    )
                break
            reserve = 0.0 if following is None else _needed(following.parts, own)
            execution = Execution(
                own,
                engine.parts,
                decided,
                canceled=canceled,
                tell_late=tell_late,
                reserve=reserve,
            )
            if not watch(execution):
                break
            outcome = execution.run(observer)
            if not _goes_on(engine, execution, outcome):
                break
            if detail := canceled():
                outcome = execution.overrun(Reason.CANCELED, detail)
                break
            if following is not None:
                names = engine.parts.name, following.parts.name
                _LOG.warning("%s: %s gave it up, %s goes on", prepared.job.id, *names)
        if outcome is None:
            raise JobStopped(Reason.CANCELED, "it was over before it began")
        return outcome

    def status(self) -> dict[str, str]:
        """What each engine has done, for people."""
        engines = self._engines
        told = {}
        for each in engines:
            told[f"answered by {each.parts.name}"] = str(each.answered.total())
            if each.parts.smaller:
                told |= {
                    f"answered by {each.parts.name}, {own.model}": str(each.answered[own.model])
                    for own in each.parts.models
                }
        if len(engines) > 1:
            told |= {
                f"failures in a row of {each.parts.name}": str(each.breaker.failures)
                for each in engines
            }
        return told | {f"answered by {FALLBACK_TEXT}": str(self._canned)}

    def left_alone(self) -> list[str]:
        """Engines that failed, or were never there, and are not tried at present."""
        failed = [each.parts.name for each in self._engines[:-1] if not each.breaker.allows()]
        return [*self._absent, *failed]

    def last_resort(self, outcome: Outcome) -> Outcome:
        """The outcome, or the instruction's own text where no engine answers it in time.

        For any thread, and for jobs that never came to run too.
        """
        job = outcome.job
        if isinstance(outcome, Response) or not job.fallback_text:
            return outcome
        if outcome.reason not in _ANSWERABLE or outcome.timing.slack < 0.0:
            return outcome
        with self._lock:
            self._canned += 1
        return Response(
            job=job,
            text=job.fallback_text,
            finish_reason=FinishReason.FALLBACK,
            late=False,
            response_tokens=0,
            plan=outcome.plan or _NO_PLAN,
            predicted_prefill=outcome.predicted_prefill,
            timing=outcome.timing,
            predictor_fault=outcome.predictor_fault,
            engine=FALLBACK_TEXT,
        )


def _goes_on(engine: ChainedEngine, execution: Execution, outcome: Outcome) -> bool:
    """Whether another engine is to try the job; tells the engine how it did."""
    hopeless = isinstance(outcome, Overrun) and outcome.reason is Reason.EXPIRED
    if not hopeless:
        engine.breaker.tell(failed=execution.given_up)
    if isinstance(outcome, Response):
        engine.answered[outcome.plan.model] += 1
    return (execution.given_up or hopeless) and not execution.late


def _prepared_already(_: object) -> PreparedJob:
    raise JobStopped(Reason.FAILED, "the first engine's jobs come prepared")


def _observer(observe: Callable[[Job], Observer | None], job: Job) -> Observer | None:
    """Who watches the job; nobody where that cannot be told."""
    try:
        return observe(job)
    except Exception:  # noqa: BLE001 - who watches a job must not end it
        _LOG.exception("%s: nobody can watch it", job.id)
        return None


def _needed(parts: ServerParts, prepared: PreparedJob) -> float:
    """s that an engine's fastest model needs for most answers; at most half of what is left.

    The prompt's tokens are those of the engine before it: it has not seen the job yet.
    """
    job, left = prepared.job, parts.time_left(prepared.job)
    prompt, longest = prepared.request.prompt_tokens, prepared.max_tokens

    def needed(own: ServerParts) -> float:
        lengths, model = own.recent_lengths.distribution(longest), own.model_of(job)
        longer = lengths.beyond(np.arange(1, longest + 1))
        tokens = 1 + int((longer > _LONGER).sum())
        return model.prefill(prompt) + model.decode(prompt, tokens)

    return min(_MOST_RESERVED * left, *map(needed, parts.models))
