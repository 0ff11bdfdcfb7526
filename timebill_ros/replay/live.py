# SPDX-License-Identifier: Apache-2.0
"""Replays into a node, at the recorded tempo or another, with its own clock or on the wall's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rclpy.clock import Clock as SystemClock
from rosgraph_msgs.msg import Clock as ClockMsg

from timebill_ros.client.client import InstructionClient, NodeAbsent
from timebill_ros.client.exchange import Arrival, Exchange
from timebill_ros.client.record import missing_record
from timebill_ros.client.session import Session
from timebill_ros.node.conversions import nanoseconds, time_msg
from timebill_ros.replay.recording import Keep, Outcomes, Recorded, Tempo, shifted
from timebill_ros.runtime.clock import NS_PER_S, seconds
from timebill_ros.runtime.settings import Settings

_TICK = 0.01  # s between two messages on /clock, and between two looks at the node
_LEAD = 0.5  # s before the first instruction, in which the node learns how fast the clock runs
_LEFT = 2.0  # s without the node's topics after which it is gone, and not just restarted
_DOUBLED = 0.3  # s after the last outcome in which one too many would come


class Heartbeat(Protocol):
    """Looks whether the node is there."""

    def __call__(self) -> None:
        """Raises what there is to say of a node that is gone."""


class RecordedTime:
    """Recorded time as it passes now: from a moment before the first instruction."""

    def __init__(
        self,
        recorded: Sequence[Recorded],
        rate: float,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Begin now."""
        self._rate = rate
        self._monotonic_ns = monotonic_ns
        self._begin_ns = monotonic_ns()
        self._start_ns = max(1, recorded[0].at_ns - round(_LEAD * rate * NS_PER_S))

    def now_ns(self) -> int:
        """The present instant of recorded time."""
        return self._start_ns + round((self._monotonic_ns() - self._begin_ns) * self._rate)

    def until(self, at_ns: int) -> float:
        """Real seconds until then; negative where it has passed."""
        return seconds(at_ns - self.now_ns()) / self._rate


class LiveReplay:
    """Sends what was recorded to a node, and waits until each instruction has ended."""

    def __init__(
        self,
        node: str,
        domain: int | None,
        tempo: Tempo,
        keep: Keep | None,
        heartbeat: Heartbeat,
        *,
        ros_arguments: Sequence[str] = (),
    ) -> None:
        """Describe it; nothing is sent before ``run``.

        Args:
            node: name of the node.
            domain: its ROS domain; the one of ROS_DOMAIN_ID where None.
            tempo: how recorded time passes.
            keep: gets every message sent and received.
            heartbeat: called again and again.
            ros_arguments: what a ROS tool takes after --ros-args, that included.
        """
        self._ros_arguments = ros_arguments
        self._node = node
        self._domain = domain
        self._tempo = tempo
        self._keep: Keep = keep or (lambda _at_ns, _message: None)
        self._heartbeat = heartbeat
        self._heard_ns = self._seen_ns = time.monotonic_ns()
        self._now_ns: Callable[[], int] = lambda: SystemClock().now().nanoseconds

    def run(self, recorded: Sequence[Recorded], *, wait: float, patience: float) -> Outcomes:
        """Send everything when it is due; whatever happens, come back.

        Args:
            recorded: in order of recording.
            wait: s in which the node, and its use of /clock, must be there.
            patience: s without a message from the node, beyond the last deadline, after which what
                has not ended is missing.

        Raises:
            NodeAbsent: the node is not there, does not listen to /clock, or left.
            Exception: what the heartbeat raised.
        """
        with (
            InstructionClient(
                server=self._node,
                domain=self._domain,
                by_topic=True,
                on_arrival=self._receive,
                ros_arguments=self._ros_arguments,
            ) as client,
            self._clock(wait) as tick,
        ):
            client.wait_for_node(wait)
            timeline = RecordedTime(recorded, self._tempo.rate)
            if self._tempo.simulated:
                self._now_ns = timeline.now_ns
            sent = []
            for item in recorded:
                while (left := timeline.until(item.at_ns)) > 0.0:
                    tick(timeline.now_ns())
                    client.spin(min(_TICK, left))
                    self._look_after(client)
                # So that the node's clock has come to the release when the instruction does.
                tick(timeline.now_ns())
                sent.append(self._send(client, item))
            self._wait_for_ends(client, recorded, timeline, tick, patience)
            client.spin(_DOUBLED)
            return _accounted(sent)

    def _send(self, client: InstructionClient, item: Recorded) -> Exchange:
        now_ns = self._now_ns()
        by_ns = 0 if self._tempo.simulated else now_ns - item.at_ns
        instruction = shifted(item.instruction, by_ns)
        if not nanoseconds(instruction.header.stamp):
            instruction.header.stamp = time_msg(now_ns)
        exchange = client.send(instruction)
        self._keep(now_ns, instruction)
        return exchange

    def _wait_for_ends(
        self,
        client: InstructionClient,
        recorded: Sequence[Recorded],
        timeline: RecordedTime,
        tick: Callable[[int], None],
        patience: float,
    ) -> None:
        rate = self._tempo.rate if self._tempo.simulated else 1.0
        budgets = (budget_of(item) / rate for item in recorded)
        last_ns = time.monotonic_ns() + round(max(budgets) * NS_PER_S)
        while not client.wait_for_all(_TICK):
            tick(timeline.now_ns())
            self._look_after(client)
            quiet_since_ns = max(last_ns, self._heard_ns)
            if seconds(time.monotonic_ns() - quiet_since_ns) > patience:
                return

    def _look_after(self, client: InstructionClient) -> None:
        self._heartbeat()
        now_ns = time.monotonic_ns()
        if client.connected:
            self._seen_ns = now_ns
        elif seconds(now_ns - self._seen_ns) > _LEFT:
            raise NodeAbsent(f"the node {self._node} left its topics in the middle of the replay")

    def _receive(self, exchange: Exchange, arrival: Arrival) -> None:
        self._heard_ns = arrival.arrived_ns
        self._keep(self._now_ns(), arrival.message)

    @contextmanager
    def _clock(self, wait: float) -> Iterator[Callable[[int], None]]:
        """Publishes an instant on /clock; does nothing where the node's time is its own."""
        if not self._tempo.simulated:
            yield lambda _now_ns: None
            return
        with Session("timebill_clock", self._domain, self._ros_arguments) as session:
            publisher = session.node.create_publisher(ClockMsg, "/clock", 1)
            if not session.spin_until(lambda: publisher.get_subscription_count() > 0, wait):
                raise NodeAbsent(
                    f"nothing listens to /clock after {wait:g} s: is the node {self._node} there, "
                    "and its parameter use_sim_time true?"
                )
            if session.node.count_publishers("/clock") > 1:
                raise NodeAbsent("somebody else publishes /clock, and time can have one source")
            yield lambda now_ns: publisher.publish(ClockMsg(clock=time_msg(now_ns)))


def budget_of(item: Recorded) -> float:
    """Seconds from the recording to the deadline; the node's default is taken as ours."""
    instruction = item.instruction
    if deadline_ns := nanoseconds(instruction.deadline):
        return seconds(max(0, deadline_ns - item.at_ns))
    return max(0.0, seconds(nanoseconds(instruction.budget))) or Settings().default_budget


def _accounted(exchanges: Sequence[Exchange]) -> Outcomes:
    """A record of each, and a fault where its outcomes are not exactly one."""
    records, faults = [], []
    for exchange in exchanges:
        name = exchange.instruction.id
        terminal = [arrival for arrival in exchange.arrivals if arrival.terminal]
        if not terminal:
            faults.append(f"{name}: no terminal message came")
        elif len(terminal) > 1:
            faults.append(f"{name}: {len(terminal)} terminal messages came")
        records.append(exchange.record() or missing_record(exchange.instruction))
    return Outcomes(records, faults)
