# SPDX-License-Identifier: Apache-2.0
"""Engines that answer for one another within one deadline, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import VanillaPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.errors import RequestError, ServerFault, ServerUnavailable
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation, PreparedRequest
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.engine_chain import ChainedEngine, CircuitBreaker, EngineChain
from timebill_ros.runtime.health import Level, engine_report
from timebill_ros.runtime.job import CANNED_NS, Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts
from timebill_ros.runtime.settings import Settings
from timebill_ros.runtime.simulation import (
    SimulatedEngine,
    SimulatedRequest,
    VirtualClock,
    simulate,
)

MS = 1_000_000
# Prefill 10 ms for the prompt, a step 1 ms.
TIMES = TimeModel(a=0.0, b=1e-5, c=0.0, p=0.0, q=1e-3)
REQUEST = SimulatedRequest(prompt_tokens=1000, response_tokens=10, predicted_tokens=16)


class World:
    """A server far away, and an engine here that goes on where that cannot."""

    def __init__(self, policy: OverrunPolicy = OverrunPolicy.KILL, several: str = "") -> None:
        self.clock = VirtualClock()
        self.remote, self.local = self._engine(), self._engine()
        first, second = self._parts(self.remote, "served"), self._parts(self.local, "local")
        if several == "served":
            first = replace(first, smaller=(self._parts(self._engine(), "served"),))
        elif several == "local":
            second = replace(second, smaller=(self._parts(self._engine(), "local"),))
        smaller = [[each.engine for each in parts.smaller] for parts in (first, second)]
        others = [ChainedEngine(second, Preparation(self.local, 20, smaller[1]))]
        self.chain = EngineChain(first, others)
        self.outcomes: list[Outcome] = []
        self.server = Server(
            first,
            Decisions(VanillaPlanner(), policy),
            prepare=Preparation(self.remote, 20, smaller[0]),
            queue_capacity=8,
            emit=self.outcomes.append,
            chain=self.chain,
        )
        self.tried = 0

    def _engine(self) -> SimulatedEngine:
        return SimulatedEngine(self.clock, TIMES, {"go": REQUEST}, window=10)

    def _parts(self, engine: SimulatedEngine, name: str) -> ServerParts:
        return ServerParts(engine, TIMES, None, self.clock, self.clock, 0.0, name=name)

    def break_remote(self, work: Callable[[], bool]) -> None:
        """Let ``work`` stand for the server's first token."""

        def prefill_chunk() -> bool:
            self.tried += 1
            return work()

        self.remote.prefill_chunk = prefill_chunk  # type: ignore[method-assign]

    def ask(self, budget_ms: int, id: str = "a", text: str = "", max_tokens: int = 20) -> Outcome:
        now = self.clock.now_ns()
        deadline = now + budget_ms * MS
        job = Job(id, Conversation("", "go"), now, deadline, max_tokens, fallback_text=text)
        before = len(self.outcomes)
        simulate(self.server, self.clock, [job])
        terminal = [o for o in self.outcomes[before:] if isinstance(o, Response) or o.terminal]
        assert len(terminal) == 1
        return terminal[0]


def gone() -> bool:
    raise ServerUnavailable("ConnectError")


def answered(outcome: Outcome) -> Response:
    assert isinstance(outcome, Response)
    return outcome


def test_the_first_engine_answers_where_it_can() -> None:
    world = World()
    assert answered(world.ask(100)).engine == "served"
    assert world.local.response_tokens == 0


@pytest.mark.parametrize("error", [ServerUnavailable("gone"), ServerFault("HTTP 400")])
def test_the_next_engine_answers_where_the_first_one_fails(error: Exception) -> None:
    world = World()

    def fail() -> bool:
        raise error

    world.break_remote(fail)
    response = answered(world.ask(100))
    assert (response.engine, response.response_tokens) == ("local", 10)
    assert not response.late


def test_the_next_engine_answers_where_the_first_one_is_over_its_time() -> None:
    world = World()

    def wait() -> bool:
        world.clock.advance(MS)
        return False

    world.break_remote(wait)
    response = answered(world.ask(100))
    assert response.engine == "local"
    # The time that the next one needs was kept: 10 ms of prefill, up to 18 steps of 1 ms.
    assert world.tried == pytest.approx(100 - 28, abs=2)
    assert response.timing.slack >= 0.0


def test_a_stream_that_breaks_off_starts_anew_elsewhere() -> None:
    world = World()

    def cut() -> None:
        raise ServerUnavailable("ReadError")

    world.remote.step = cut  # type: ignore[method-assign]
    assert answered(world.ask(100)).engine == "local"


def test_no_engine_answers_what_it_cannot_in_time() -> None:
    world = World()
    world.break_remote(gone)
    overrun = world.ask(12, max_tokens=20)
    assert isinstance(overrun, Overrun)
    assert (overrun.reason, overrun.engine) == (Reason.KILLED, "local")


def test_a_fault_that_is_nobody_s_server_s_is_no_reason_to_go_on() -> None:
    world = World()

    def fail() -> bool:
        raise RequestError("bad")

    world.break_remote(fail)
    overrun = world.ask(100)
    assert isinstance(overrun, Overrun)
    assert (overrun.reason, overrun.engine) == (Reason.FAILED, "served")


def test_an_engine_that_keeps_failing_is_left_alone_longer_and_longer() -> None:
    world = World()
    world.break_remote(gone)
    tried = []
    for second in range(12):
        world.ask(100, f"{second}")
        tried.append(world.tried)
        world.clock.advance(1000 * MS)
    # Twice at once, then after 1 s, 2 s and 4 s.
    assert tried == [1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    assert engine_report(world.chain).level is Level.WARN
    assert engine_report(world.chain).values["answered by local"] == "12"


def test_an_engine_that_is_back_is_used_again() -> None:
    world = World()
    world.break_remote(gone)
    for number in range(3):
        world.ask(100, f"{number}")
    del world.remote.prefill_chunk
    world.clock.advance(1000 * MS)
    assert answered(world.ask(100, "later")).engine == "served"
    assert engine_report(world.chain).level is Level.OK


def test_a_breaker_pauses_a_minute_at_most() -> None:
    clock = VirtualClock()
    breaker = CircuitBreaker(clock)
    for _ in range(20):
        breaker.tell(failed=True)
    clock.advance(60_000 * MS)
    assert breaker.allows()


def test_an_instruction_s_own_text_is_the_last_answer_and_in_time() -> None:
    world = World()
    world.break_remote(gone)
    response = answered(world.ask(15, text="stop", max_tokens=20))
    assert (response.text, response.engine) == ("stop", "fallback_text")
    assert response.finish_reason is FinishReason.FALLBACK
    assert response.response_tokens == 0
    assert 0.0 <= response.timing.slack <= CANNED_NS / 1e9


def test_what_only_waited_is_answered_by_its_own_text_and_in_time() -> None:
    world = World()
    now = world.clock.now_ns()
    # The engine is busy for 19 ms: nothing behind it can start before its own deadline.
    jobs = [
        Job("runs", Conversation("", "go"), now, now + 14 * MS),
        Job("waits", Conversation("", "go"), now, now + 15 * MS, fallback_text="stop"),
        Job("silent", Conversation("", "go"), now, now + 15 * MS),
    ]
    simulate(world.server, world.clock, jobs)
    ends = {outcome.job.id: outcome for outcome in world.outcomes}
    assert len(ends) == len(world.outcomes) == 3
    waits = answered(ends["waits"])
    assert (waits.text, waits.engine, waits.late) == ("stop", "fallback_text", False)
    assert 0.0 <= waits.timing.slack <= CANNED_NS / 1e9
    silent = ends["silent"]
    assert isinstance(silent, Overrun)
    assert silent.reason is Reason.EXPIRED
    assert world.chain.status()["answered by fallback_text"] == "1"


def test_what_is_skipped_behind_a_late_job_is_answered_by_its_own_text() -> None:
    world = World(OverrunPolicy.SKIP_NEXT)
    now = world.clock.now_ns()
    jobs = [
        Job("late", Conversation("", "go"), now, now + 12 * MS),
        Job("behind", Conversation("", "go"), now, now + 100 * MS, fallback_text="stop"),
        Job("silent", Conversation("", "go"), now, now + 100 * MS),
        Job("after", Conversation("", "go"), now + 15 * MS, now + 90 * MS, fallback_text="wait"),
    ]
    simulate(world.server, world.clock, jobs)
    terminal = [o for o in world.outcomes if isinstance(o, Response) or o.terminal]
    ends = {outcome.job.id: outcome for outcome in terminal}
    assert len(ends) == len(terminal) == 4
    assert answered(ends["behind"]).text == "stop"
    assert answered(ends["after"]).text == "wait"
    silent = ends["silent"]
    assert isinstance(silent, Overrun)
    assert silent.reason is Reason.SKIPPED


@pytest.mark.parametrize("reason", [Reason.REJECTED, Reason.CANCELED])
def test_what_is_refused_or_canceled_is_not_answered_by_its_own_text(reason: Reason) -> None:
    world = World()
    now = world.clock.now_ns()
    waiting = 8 if reason is Reason.REJECTED else 0  # as many as the queue takes
    for place in range(waiting):
        world.server.submit(Job(f"{place}", Conversation("", "go"), now, now + 100 * MS))
    ends = now + 500 * MS
    world.server.submit(Job("x", Conversation("", "go"), now, ends, fallback_text="stop"))
    if reason is Reason.CANCELED:
        world.server.cancel_all("enough")
    (overrun,) = world.outcomes
    assert isinstance(overrun, Overrun)
    assert overrun.reason is reason


def test_an_answer_in_time_wins_over_the_instruction_s_own() -> None:
    assert answered(World().ask(100, text="stop")).text == "x" * 10


def test_a_canceled_job_is_not_answered_by_another_engine() -> None:
    world = World()

    def cancel() -> bool:
        world.server.cancel_all("enough")
        raise ServerUnavailable("gone")

    world.break_remote(cancel)
    outcome = world.ask(100)
    assert isinstance(outcome, Overrun)
    assert (outcome.reason, outcome.detail) == (Reason.CANCELED, "enough")
    assert world.local.response_tokens == 0


@pytest.mark.parametrize("several", ["served", "local"])
def test_engines_may_have_different_numbers_of_models(several: str) -> None:
    world = World(several=several)
    world.break_remote(gone)
    assert answered(world.ask(100)).engine == "local"


def test_whatever_else_breaks_a_job_is_told_and_the_next_one_runs() -> None:
    world = World()
    run = world.chain.run

    def broken(*_: object, **__: object) -> Outcome:
        raise ZeroDivisionError("nobody's fault")

    world.chain.run = broken  # type: ignore[method-assign]
    overrun = world.ask(100)
    assert isinstance(overrun, Overrun)
    assert overrun.reason is Reason.FAILED
    assert overrun.detail == "ZeroDivisionError: nobody's fault"
    world.chain.run = run  # type: ignore[method-assign]
    assert answered(world.ask(100, "b")).engine == "served"


def no_room(*_: object) -> PreparedRequest:
    raise MemoryError("no room")


def test_an_engine_that_cannot_even_prepare_a_job_costs_it_nothing_else() -> None:
    world = World()
    world.break_remote(gone)
    world.local.prepare = no_room  # type: ignore[method-assign]
    overrun = world.ask(100)
    assert isinstance(overrun, Overrun)
    assert (overrun.reason, overrun.engine) == (Reason.FAILED, "served")
    assert answered(world.ask(100, "b", text="stop")).text == "stop"
    # By now the server is left alone, and nothing runs at all.
    alone = world.ask(100, "c")
    assert isinstance(alone, Overrun)
    assert (alone.reason, alone.detail) == (Reason.FAILED, "local: MemoryError: no room")
    assert answered(world.ask(100, "d", text="stop")).text == "stop"
    del world.local.prepare
    assert answered(world.ask(100, "e")).engine == "local"


def test_late_is_told_once_whatever_engine_goes_on() -> None:
    world = World(OverrunPolicy.SKIP_NEXT)

    def slow() -> bool:
        world.clock.advance(200 * MS)
        return False

    world.break_remote(slow)
    world.remote.abort()
    world.ask(100)
    late = [o for o in world.outcomes if isinstance(o, Overrun) and o.reason is Reason.LATE]
    assert len(late) <= 1


def test_engines_are_chained_by_name_each_once() -> None:
    settings = Settings(engine="served", fallback=("served", "local"), url="http://h")
    assert settings.engines == ("served", "local")
    with pytest.raises(SettingError, match="fallback"):
        Settings(fallback=("cloud",))
    with pytest.raises(SettingError, match="url"):
        Settings(fallback=("served",))
