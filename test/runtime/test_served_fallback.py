# SPDX-License-Identifier: Apache-2.0
"""A server that goes, and the embedded model in its place, loaded as a node loads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from timebill_ros.engine.errors import ServerUnavailable
from timebill_ros.engine.request import Conversation
from timebill_ros.runtime.clock import NS_PER_S, MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Response
from timebill_ros.runtime.running_server import RunningServer, start_server
from timebill_ros.runtime.settings import Settings

from ..engine.scripted_server import WAIT, answer, scripted

AMPLE = 600  # s


class Station:
    """A running server of jobs, and what came of them."""

    def __init__(self, folder: Path, url: str, *fallback: str) -> None:
        self.outcomes: list[Outcome] = []
        self._ended = threading.Condition()
        settings = Settings(
            engine="served",
            fallback=fallback,
            url=url,
            max_context=1024,
            max_tokens=10,
            threads=1,
            profile_cache=str(folder),
            profile_seconds=1.0,
        )
        self.running: RunningServer = start_server(
            settings,
            clock=MonotonicClock(),
            emit=self._take,
            observe=lambda _: None,
            progress=lambda *_: None,
        )

    def ask(self, id: str) -> Response:
        now = MonotonicClock().now_ns()
        job = Job(id, Conversation("", "stop"), now, now + AMPLE * NS_PER_S)
        self.running.server.submit(job)
        with self._ended:
            assert self._ended.wait_for(
                lambda: self.outcomes and self.outcomes[-1].job.id == id, WAIT
            )
        outcome = self.outcomes[-1]
        assert isinstance(outcome, Response), outcome
        return outcome

    def until(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < ends, "waited in vain"
            time.sleep(0.01)

    def close(self) -> None:
        self.running.server.close("over")
        self.running.release(WAIT)

    def _take(self, outcome: Outcome) -> None:
        with self._ended:
            self.outcomes.append(outcome)
            self._ended.notify_all()


def test_the_local_engine_answers_when_the_server_has_gone(tmp_path: Path) -> None:
    with scripted(answer([" from", " afar"], "stop")) as server:
        station = Station(tmp_path, server.url, "local")
        try:
            assert station.ask("first").engine == "served"
            server.close()
            after = station.ask("second")
            assert after.engine == "local"
            assert after.text
        finally:
            station.close()


def test_a_server_that_is_not_there_is_left_out_where_another_may_answer(tmp_path: Path) -> None:
    station = Station(tmp_path, "http://127.0.0.1:1", "local")
    try:
        assert station.ask("first").engine == "local"
    finally:
        station.close()


def test_a_server_that_comes_later_answers_from_then_on(tmp_path: Path) -> None:
    with scripted(answer([])) as taken:
        url = taken.url
    station = Station(tmp_path, url, "local")
    try:
        assert station.ask("before").engine == "local"
        assert station.running.chain.left_alone() == ["served"]
        with scripted(answer([" from", " afar"], "stop"), port=int(url.rpartition(":")[2])) as late:
            station.until(lambda: station.running.chain.left_alone() == [])
            assert station.ask("after").engine == "served"
            late.close()
            assert station.ask("again").engine == "local"
    finally:
        station.close()


def test_a_server_is_looked_for_no_more_once_the_node_is_cleaned_up(tmp_path: Path) -> None:
    station = Station(tmp_path, "http://127.0.0.1:1", "local")
    station.close()
    station.until(lambda: "absent" not in [thread.name for thread in threading.enumerate()])


def test_a_server_that_is_not_there_is_an_error_where_none_may(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailable):
        Station(tmp_path, "http://127.0.0.1:1")
