# SPDX-License-Identifier: Apache-2.0
"""Which goals' clients count as gone, by a count and a clock that the test sets."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from rclpy.context import Context
from rclpy.parameter import Parameter

from timebill_ros.msg import Overrun
from timebill_ros.node.instruct_action import GoalLease
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.simulation import VirtualClock

from .bench import HELD, Bench, Hold
from .test_instruct_action import Client, report

LEASE = 5.0


class Watched:
    """A lease, the number of listeners, and the time."""

    def __init__(self) -> None:
        self.listeners = 0
        self.clock = VirtualClock()
        self.lease = GoalLease(lambda: self.listeners, self.clock.now_ns)

    def after(self, seconds: float) -> list[bytes]:
        """What has run out so much later."""
        self.clock.advance(round(seconds * NS_PER_S))
        return self.lease.take_run_out(LEASE)


def test_a_goal_runs_out_once_nobody_has_listened_for_the_lease() -> None:
    watched = Watched()
    watched.listeners = 1
    watched.lease.begin(b"a")
    assert watched.after(60.0) == []
    watched.listeners = 0
    assert watched.after(4.9) == []
    assert watched.after(0.1) == [b"a"]
    assert watched.after(60.0) == []


def test_a_goal_that_overtakes_the_news_of_its_client_has_a_lease_of_its_own() -> None:
    watched = Watched()
    watched.lease.begin(b"a")
    assert watched.after(3.0) == []
    watched.lease.begin(b"b")
    assert watched.after(2.0) == [b"a"]
    assert watched.after(2.9) == []
    assert watched.after(0.1) == [b"b"]


def test_a_listener_that_comes_back_renews_the_lease() -> None:
    watched = Watched()
    watched.lease.begin(b"a")
    assert watched.after(4.0) == []
    watched.listeners = 1
    assert watched.after(0.5) == []
    watched.listeners = 0
    assert watched.after(4.9) == []
    assert watched.after(0.1) == [b"a"]


def test_goals_of_one_client_go_on_while_another_one_listens() -> None:
    watched = Watched()
    watched.listeners = 2
    watched.lease.begin(b"a")
    watched.listeners = 1
    assert watched.after(60.0) == []


def test_what_has_ended_does_not_run_out() -> None:
    watched = Watched()
    watched.lease.begin(b"a")
    watched.lease.end(b"a")
    watched.lease.end(b"a")
    assert watched.after(60.0) == []


def test_no_lease_is_no_end() -> None:
    watched = Watched()
    watched.lease.begin(b"a")
    watched.clock.advance(60 * NS_PER_S)
    assert watched.lease.take_run_out(0.0) == []
    assert watched.after(4.9) == []  # switched on, it counts from then
    assert watched.after(0.1) == [b"a"]


def test_goals_whose_client_is_gone_are_canceled(bench: Bench) -> None:
    node = bench.active(goal_lease=0.0)
    hold = Hold(bench)
    client = Client(bench)
    client.send("runs", **report())
    bench.until(lambda: hold.steps == HELD)
    client.send("waits")
    bench.until(lambda: node.count_subscribers("/llm/instruct/_action/feedback") == 1)
    node.set_parameters([Parameter("goal_lease", value=0.01)])
    assert bench.terminal() == []
    client.close()
    bench.until(lambda: bench.terminal() == ["waits"])
    hold.let_go()
    bench.until(lambda: bench.terminal() == ["waits", "runs"])
    for overrun in bench.overruns:
        assert overrun.reason == Overrun.CANCELED
        assert overrun.detail == "goal_lease: nobody has listened to the action for 0.01 s"
    bench.until(lambda: bench.nodes[0].goals_pending == 0)


@pytest.mark.slow
def test_the_goal_of_a_process_that_was_killed_is_canceled(
    bench: Bench, ros_context: Context
) -> None:
    """Fast DDS gives a process up that has been silent for 20 s; until then nobody can know."""
    node = bench.active(goal_lease=0.0)
    hold = Hold(bench, patience=600.0)
    bench.send("runs", budget=600.0, **report())
    bench.until(lambda: hold.steps == HELD)
    ask = subprocess.Popen(
        [sys.executable, "-m", "timebill_ros", "ask", "stop", "--budget", "600", "--wait", "600"],
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_context.get_domain_id())},
    )
    try:
        bench.until(lambda: node.goals_pending == 1)  # before that, the client has sent none
        bench.until(lambda: node.count_subscribers("/llm/instruct/_action/feedback") == 1)
        node.set_parameters([Parameter("goal_lease", value=0.01)])
    finally:
        ask.kill()
        ask.wait()
    killed = time.monotonic()
    bench.until(lambda: bench.overruns, patience=600.0)
    print(f"canceled {time.monotonic() - killed:.1f} s after its client was killed")
    [overrun] = bench.overruns
    assert overrun.reason == Overrun.CANCELED
    assert overrun.detail.startswith("goal_lease: ")
    hold.let_go()
    bench.until(lambda: bench.responses)
