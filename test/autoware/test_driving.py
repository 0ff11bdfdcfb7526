# SPDX-License-Identifier: Apache-2.0
"""From a text to the vehicle: the real node and its embedded model, adapter, a small Autoware."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from std_msgs.msg import String

from timebill_ros.autoware.adapter_node import AutowareAdapter
from timebill_ros.client.node_process import NodeProcess

from .fake_autoware import FakeAutoware

pytestmark = pytest.mark.e2e
TIMEOUT = 120.0
QUICK = {"max_context": 2048, "threads": 1, "profile_seconds": 5.0}
# Nobody's deadline is tested here, and the machine may be busy.
PATIENT = {"budget": 60.0}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess({**QUICK, "profile_cache": str(tmp_path_factory.mktemp("profiles"))}) as node:
        node.configure(TIMEOUT)
        node.activate()
        yield node


@pytest.fixture
def autoware(interfaces: Path | None, node: NodeProcess) -> Iterator[FakeAutoware]:
    """A vehicle at 12 m/s behind a truck at 9 m/s, and the adapter."""
    context = Context()
    rclpy.init(context=context, domain_id=node.domain)
    fake = FakeAutoware(context, listens=False)
    fake.mode("AUTONOMOUS")
    fake.route("SET")
    goals = {"goals": ["depot", "harbour"], "pose__depot": [1.0] * 4, "pose__harbour": [2.0] * 4}
    adapter = fake.adapter(context, **PATIENT, **goals)
    [instructions] = [p for p in adapter.publishers if p.topic_name == "/llm/input/instruction"]
    fake.until(lambda: instructions.get_subscription_count() == 1)
    fake.until(lambda: adapter.vehicle.route_state is not None)
    yield fake
    fake.close()
    rclpy.shutdown(context=context)


def say(autoware: FakeAutoware, text: str) -> None:
    """Tell the adapter something while the scene is fresh."""
    [adapter] = [n for n in autoware.executor.get_nodes() if isinstance(n, AutowareAdapter)]

    def tell() -> None:
        autoware.drive(speed=12.0)
        autoware.see(("TRUCK", 40.0, 0.0, 9.0))

    autoware.tell_scene(adapter, tell)
    autoware.texts.publish(String(data=text))


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("stop the vehicle", "/api/operation_mode/change_to_stop"),
        ("resume driving", "/api/operation_mode/change_to_autonomous"),
        ("drive to harbour", "/api/routing/change_route_points"),
    ],
)
def test_words_become_a_call(autoware: FakeAutoware, text: str, service: str) -> None:
    say(autoware, text)
    autoware.until(lambda: autoware.called == [service])


def test_words_about_the_scene_become_its_speed(autoware: FakeAutoware) -> None:
    say(autoware, "slow down behind o1")
    autoware.until(lambda: [limit.max_velocity for limit in autoware.limits] == [9.0])
