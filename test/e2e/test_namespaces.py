# SPDX-License-Identifier: Apache-2.0
"""Two nodes in one domain, each in its namespace, do not disturb each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from timebill_ros.msg import Overrun, Response

from .subject import (
    PATIENCE,
    Lookout,
    Subject,
    ask,
    ended_by,
    endless_work,
    long_answer,
    overruns,
    settle,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pair(profiles: Path) -> Iterator[tuple[Subject, Subject]]:
    """Two running nodes, not configured yet."""
    with (
        Subject(profiles, namespace="left") as left,
        Subject(profiles, namespace="right", domain=left.domain) as right,
    ):
        yield left, right


def test_the_same_ids_are_answered_by_the_node_they_were_sent_to(
    pair: tuple[Subject, Subject],
) -> None:
    left, right = pair
    left.serve()
    right.serve(overrun_policy="skip_next")
    with left.client() as to_left, right.client() as to_right:
        for number in range(5):
            to_left.send(ask(f"i{number}"))
            to_right.send(ask(f"i{number}"))
        assert to_left.wait_for_all(PATIENCE)
        assert to_right.wait_for_all(PATIENCE)
        for client in (to_left, to_right):
            settle(client)
            endings = [ended_by(client.exchanges[f"i{number}"]) for number in range(5)]
            assert all(isinstance(ending, Response) for ending in endings)
            assert not client.strays


def test_one_node_goes_on_while_the_other_is_taken_down(pair: tuple[Subject, Subject]) -> None:
    left, right = pair
    left.serve()
    right.serve()
    with left.client() as to_left, right.client() as to_right:
        with Lookout(left) as on_left, Lookout(right) as on_right:
            lost = [to_left.send(endless_work(f"i{number}")) for number in range(4)]
            kept = [
                to_right.send(long_answer("i0")),
                *(to_right.send(ask(f"i{n}")) for n in (1, 2)),
            ]
            # Its answers come to their end by themselves: how many wait is a matter of speed.
            on_right.see(decoding="i0")
            on_left.see(decoding="i0", waiting=3)
        left.unload()
        assert to_left.wait_for_all(PATIENCE)
        assert to_right.wait_for_all(PATIENCE)
        assert right.state() == "active"
        assert [overruns(exchange) for exchange in lost] == [[Overrun.CANCELED]] * 4
        assert all(isinstance(ended_by(exchange), Response) for exchange in kept)
