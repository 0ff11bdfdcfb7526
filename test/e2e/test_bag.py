# SPDX-License-Identifier: Apache-2.0
"""Twenty recorded instructions replayed into the running node: each is ended exactly once.

Recorded stamps are long past. A player that keeps them must bring the recorded time with it
(/clock, and a node under use_sim_time); otherwise the instructions must be stamped anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rosgraph_msgs.msg import Clock

pytest.importorskip("rosbags", reason="rosbags is not installed (requirements/dev.txt)")

from rosbags.rosbag2 import StoragePlugin

from timebill_ros.cli.client import InstructionClient
from timebill_ros.cli.session import Session
from timebill_ros.msg import Overrun, Response
from timebill_ros.node.conversions import time_msg

from .bag import (
    EMPTY,
    OVERDUE,
    SIZE,
    Recorded,
    draw_recording,
    read_bag,
    replay,
    restamp,
    write_bag,
)
from .subject import PATIENCE, Subject, ended_by

pytestmark = pytest.mark.e2e

RECORDED_NS = 1_700_000_000 * 10**9  # in 2023
PLUGINS = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]


@pytest.fixture(params=PLUGINS, ids=lambda plugin: plugin.name.lower())
def recording(request: pytest.FixtureRequest, node: Subject, tmp_path: Path) -> list[Recorded]:
    """What a bag that was written a while ago holds."""
    written = draw_recording(RECORDED_NS)
    write_bag(tmp_path / "bag", request.param, f"{node.name}/input/instruction", written)
    recorded = list(read_bag(tmp_path / "bag"))
    assert recorded == written
    assert len(recorded) == SIZE
    return recorded


def endings(client: InstructionClient, recording: list[Recorded]) -> dict[str, Response | Overrun]:
    """The one terminal message of every recorded instruction, by id."""
    client.spin(0.5)  # for what would come once too often
    assert client.strays == []
    assert list(client.exchanges) == [instruction.id for _, instruction in recording]
    return {name: ended_by(exchange) for name, exchange in client.exchanges.items()}


def check_served(ended: dict[str, Response | Overrun]) -> None:
    """As recorded, but for what a slow machine has no time for."""
    reasons = {name: m.reason for name, m in ended.items() if isinstance(m, Overrun)}
    assert reasons.pop(EMPTY) == Overrun.REJECTED
    assert reasons.pop(OVERDUE) == Overrun.EXPIRED
    assert set(reasons.values()) <= {Overrun.KILLED, Overrun.EXPIRED}
    assert len(reasons) < SIZE - 2


def test_a_bag_is_replayed_on_the_wall_clock_with_new_stamps(
    node: Subject, recording: list[Recorded]
) -> None:
    node.serve()
    with node.client() as client:
        assert replay(client, recording, stamp=restamp, patience=PATIENCE)
        check_served(endings(client, recording))


def test_a_bag_is_replayed_with_its_own_clock(node: Subject, recording: list[Recorded]) -> None:
    node.serve(use_sim_time=True)
    with node.client() as client, Session("bag_clock", node.domain) as session:
        clock = session.node.create_publisher(Clock, "/clock", 1)
        assert session.spin_until(lambda: clock.get_subscription_count() > 0, PATIENCE)
        assert replay(
            client,
            recording,
            tick=lambda now_ns: clock.publish(Clock(clock=time_msg(now_ns))),
            patience=PATIENCE,
        )
        ended = endings(client, recording)
    check_served(ended)
    headers = [instruction.header for _, instruction in recording]
    assert [message.header for message in ended.values()] == headers


def test_a_bag_without_its_clock_has_long_expired(node: Subject, recording: list[Recorded]) -> None:
    node.serve()
    with node.client() as client:
        assert replay(client, recording, patience=PATIENCE)
        ended = endings(client, recording)
    reasons = {name: message.reason for name, message in ended.items()}
    assert reasons.pop(EMPTY) == Overrun.REJECTED
    assert set(reasons.values()) == {Overrun.EXPIRED}
