# SPDX-License-Identifier: Apache-2.0
"""Free domains and bounded waits; what travels between sessions is test_client's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Self

import pytest

from timebill_ros.client import session
from timebill_ros.client.session import Session, free_domain


class Machine:
    """Stands for the machine's UDP ports: some are taken."""

    def __init__(self, *taken: int) -> None:
        self.taken = set(taken)
        self.open = 0

    def socket(self, *_: object) -> Self:
        self.open += 1
        return self

    def bind(self, address: tuple[str, int]) -> None:
        if address[1] in self.taken:
            raise OSError("address in use")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1


# RTPS: the participants of a domain have the ports 7400 + 250 domain + 10, + 12, and so on.
@pytest.mark.parametrize(
    ("taken", "domain"),
    [
        ((), 101),
        ((32660,), 100),
        ((32666,), 100),  # the first to come is gone, a later one is left
        ((32661, 32650), 101),
        ((32660, 32410), 99),
        (range(7660, 32700), 0),
    ],
)
def test_the_highest_domain_without_a_process_is_taken(
    monkeypatch: pytest.MonkeyPatch, taken: tuple[int, ...], domain: int
) -> None:
    machine = Machine(*taken)
    monkeypatch.setattr(socket, "socket", machine.socket)
    assert free_domain() == domain
    assert machine.open == 0


def test_a_machine_without_a_free_domain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Machine(*range(7410, 32700)).socket)
    with pytest.raises(RuntimeError, match="no ROS domain from 0 to 101 is free"):
        free_domain()


@pytest.fixture
def alone() -> Iterator[Session]:
    with Session("alone", free_domain()) as session:
        yield session


def test_what_is_done_already_needs_no_time(alone: Session) -> None:
    assert alone.spin_until(lambda: True, 0.0)
    assert not alone.spin_until(lambda: False, 0.0)


def test_callbacks_run_while_somebody_waits(alone: Session) -> None:
    fired: list[int] = []
    alone.node.create_timer(1e-4, lambda: fired.append(1))
    assert fired == []
    assert alone.spin_until(lambda: len(fired) >= 3, 20.0)


def test_a_wait_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spun = [0.0], []

    def spin_once(timeout_sec: float) -> None:
        spun.append(timeout_sec)
        now[0] += timeout_sec

    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    executor = SimpleNamespace(spin_once=spin_once)
    assert not session.spin_until(executor, lambda: False, 0.05)
    assert sum(spun) == pytest.approx(0.05)
    assert max(spun) == pytest.approx(0.02)


def test_only_a_long_wait_is_told(alone: Session, capsys: pytest.CaptureFixture[str]) -> None:
    assert alone.wait_for("/llm", lambda: True, 10.0)
    assert not alone.wait_for("/llm", lambda: False, 0.05, untold=0.05)
    assert capsys.readouterr().err == ""
    assert not alone.wait_for("/llm", lambda: False, 0.15, untold=0.05)
    assert capsys.readouterr().err == "waiting for /llm, up to 0.1 s more\n"


def test_leaving_ends_the_context() -> None:
    with Session("brief", free_domain()) as brief:
        assert brief.node.context.ok()
    assert not brief.node.context.ok()
