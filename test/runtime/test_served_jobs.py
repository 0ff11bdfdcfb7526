# SPDX-License-Identifier: Apache-2.0
"""Jobs on a server that misbehaves: each ends with exactly one terminal outcome, and in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import pytest

from timebill_ros.budget.planners import VanillaPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.served.connect import ServedSettings, connect
from timebill_ros.engine.served.engine import ServedEngine
from timebill_ros.runtime.admission import Preparation
from timebill_ros.runtime.clock import MonotonicClock
from timebill_ros.runtime.coverage_tracker import RecentLengths
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage
from timebill_ros.runtime.policy import Decisions, OverrunPolicy
from timebill_ros.runtime.server import Server
from timebill_ros.runtime.server_parts import ServerParts

from ..engine.scripted_server import END, Reply, Script, ScriptedServer, answer, chunk, scripted

BUDGET_NS = 10**9
TIMES = TimeModel(a=0.0, b=1e-6, c=1e-3, p=0.0, q=1e-3)


@dataclass
class EventClock:
    """Stands still until something has happened; then every deadline has passed."""

    happened: Callable[[], bool] = lambda: False
    rate: float = 1.0

    def now_ns(self) -> int:
        return 2 * BUDGET_NS if self.happened() else 0


@dataclass
class World:
    """A server of jobs whose engine is on a scripted server."""

    remote: ScriptedServer
    engine: ServedEngine
    clock: EventClock = field(default_factory=EventClock)
    policy: OverrunPolicy = OverrunPolicy.KILL
    outcomes: list[Outcome] = field(default_factory=list)
    lengths: RecentLengths = field(default_factory=RecentLengths)

    def __post_init__(self) -> None:
        parts = ServerParts(
            *(self.engine, TIMES, None, self.clock, MonotonicClock(), 0.0),
            recent_lengths=self.lengths,
        )
        self.server = Server(
            parts,
            Decisions(planner=VanillaPlanner(), policy=self.policy),
            prepare=Preparation(self.engine, 20),
            queue_capacity=4,
            emit=self.outcomes.append,
        )

    def ask(self, id: str = "a") -> Outcome:
        """Submit a job and serve it to its outcome, of which there is one."""
        before = len(self.outcomes)
        self.server.submit(Job(id, Conversation("", "go left"), 0, BUDGET_NS, 20))
        while self.server.prepare_next() or self.server.serve_next():
            pass
        (outcome,) = self.outcomes[before:]
        return outcome


@contextmanager
def world(script: Script, policy: OverrunPolicy = OverrunPolicy.KILL) -> Iterator[World]:
    with (
        scripted(script) as remote,
        closing(connect(ServedSettings(remote.url, window=8))) as engine,
    ):
        yield World(remote, engine, policy=policy)


def trickle(to: Reply) -> None:
    to.head()
    while not to.received.closed.is_set():
        to.send(b": ping\n\n")


def stall_after(*pieces: bytes) -> Script:
    def reply(to: Reply) -> None:
        to.head()
        to.send(*pieces)
        to.until_closed()

    return reply


def test_an_answer_is_a_response() -> None:
    with world(answer([" left", "."], "stop")) as scene:
        response = scene.ask()
    assert isinstance(response, Response)
    assert (response.text, response.finish_reason) == (" left.", FinishReason.EOS)
    assert response.plan.alpha == 0.0


@pytest.mark.parametrize(
    ("script", "stage", "text"),
    [
        (Reply.until_closed, Stage.PREFILL, ""),
        (trickle, Stage.PREFILL, ""),
        (stall_after(chunk("")), Stage.PREFILL, ""),
    ],
    ids=["never_answers", "trickles", "says_nothing"],
)
def test_at_its_deadline_a_job_is_killed_and_its_stream_closed(
    script: Script, stage: Stage, text: str
) -> None:
    with world(script) as scene:
        scene.clock.happened = lambda: bool(scene.remote.received)
        overrun = scene.ask()
        assert isinstance(overrun, Overrun)
        assert (overrun.reason, overrun.stage) == (Reason.KILLED, stage)
        assert overrun.partial_text == text
        assert scene.remote.wait_for(1)[0].saw_close()


def test_at_its_deadline_a_growing_answer_is_killed_with_its_part() -> None:
    with world(stall_after(chunk(" left"), chunk(" and"))) as scene:
        scene.clock.happened = lambda: scene.engine.response_tokens == 2
        overrun = scene.ask()
        assert isinstance(overrun, Overrun)
        assert (overrun.reason, overrun.stage) == (Reason.KILLED, Stage.DECODE)
        assert overrun.partial_text == " left and"
        assert scene.remote.wait_for(1)[0].saw_close()


def test_a_response_may_be_late_under_skip_next() -> None:
    with world(answer([" left", "."], "stop"), OverrunPolicy.SKIP_NEXT) as scene:
        scene.clock.happened = lambda: scene.engine.response_tokens >= 1
        scene.server.submit(Job("a", Conversation("", "go left"), 0, BUDGET_NS, 20))
        while scene.server.prepare_next() or scene.server.serve_next():
            pass
        late, response = scene.outcomes
        assert isinstance(late, Overrun)
        assert late.reason is Reason.LATE
        assert isinstance(response, Response)
        assert response.late
        assert scene.remote.wait_for(1)[0].body["max_tokens"] == 20


def test_the_server_is_told_no_more_tokens_than_the_deadline_allows() -> None:
    with world(answer([" left"] * 20)) as scene:
        scene.server.submit(Job("a", Conversation("", "go left"), 0, 4 * 10**6, 20))
        while scene.server.prepare_next() or scene.server.serve_next():
            pass
        (sent,) = scene.remote.wait_for(1)
        # 4 ms, four times as fast as the time model says: 1 ms and 1 ms a token.
        assert sent.body["max_tokens"] == 15
        (response,) = scene.outcomes
        assert isinstance(response, Response)
        assert response.finish_reason is FinishReason.DEADLINE


@pytest.mark.parametrize(
    ("budget_us", "told"),
    [
        (4000, 6),  # three tokens fit as fast as it is now, and no answer had more than six
        (10_000, 9),  # what fits is not cut off, however short the others were
        (2000, 6),
        (1500, 5),  # six would not fit were it four times as fast
        (100_000, 20),
    ],
)
def test_the_server_is_told_no_more_tokens_than_answers_have_where_more_would_be_late(
    budget_us: int, told: int
) -> None:
    with world(answer([" left"] * 20)) as scene:
        for _ in range(200):
            scene.lengths.observe(6, complete=True)
        scene.server.submit(Job("a", Conversation("", "go left"), 0, budget_us * 1000, 20))
        while scene.server.prepare_next() or scene.server.serve_next():
            pass
        (sent,) = scene.remote.wait_for(1)
        assert sent.body["max_tokens"] == told


@pytest.mark.parametrize(
    "script",
    [
        lambda to: to.json({}, "500 Internal Server Error"),
        lambda to: to.cut(),
        stall_after(b"data: {\n\n"),
        stall_after(chunk(None, "length"), END),
        stall_after(chunk("a"), chunk(None, "content_filter"), END),
    ],
    ids=["500", "cut", "malformed", "expired_in_the_queue", "unknown_finish"],
)
def test_a_server_s_fault_fails_one_job_alone(script: Script) -> None:
    with world(script) as scene:
        overrun = scene.ask()
        assert isinstance(overrun, Overrun)
        assert overrun.reason is Reason.FAILED
        assert "server: " in overrun.detail
        scene.remote.script = answer([" fine"], "stop")
        assert isinstance(scene.ask("b"), Response)
