# SPDX-License-Identifier: Apache-2.0
"""Show a running node: its state, its deadlines and its last outcomes, as they change."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.live import Live

from timebill_ros.cli.argument_types import node_name, positive_seconds
from timebill_ros.cli.dashboard import Dashboard
from timebill_ros.client.exchange import Arrival
from timebill_ros.client.record import record_of_message
from timebill_ros.client.session import Session
from timebill_ros.msg import Instruction, Overrun, Response
from timebill_ros.node.command_line import command_parser, parse_with_ros_arguments
from timebill_ros.node.diagnostics import TOPIC

# Wider than a pipe's usual 80 columns, so that the tables are not cut where nobody can widen them.
_WIDTH = 110
# Silence that is told, s: longer than any common diagnostics_period.
_SILENCE = 5.0
_QOS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)


class Watch:
    """Listens to one node's public topics."""

    def __init__(self, node: str, session: Session) -> None:
        """Subscribe to what ``node`` publishes."""
        self.dashboard = Dashboard(node)
        self._node = node
        self._session = session
        self._heard = time.monotonic()
        ros = session.node
        ros.create_subscription(DiagnosticArray, TOPIC, self._diagnostics, _QOS)
        ros.create_subscription(Response, f"{node}/output/response", self._outcome, _QOS)
        ros.create_subscription(Overrun, f"{node}/output/overrun", self._outcome, _QOS)

    def wait_for_node(self, timeout: float) -> bool:
        """Whether the node said anything within ``timeout`` s."""
        return self._session.wait_for(self._node, lambda: self.dashboard.heard, timeout)

    def listen(self, duration: float) -> None:
        """Take messages for ``duration`` s."""
        self._session.spin_until(lambda: False, duration)

    @property
    def silence(self) -> float:
        """Seconds since the node said anything; 0 while that is not long."""
        quiet = time.monotonic() - self._heard
        return quiet if quiet > _SILENCE else 0.0

    def _diagnostics(self, array: DiagnosticArray) -> None:
        if self.dashboard.take(array):
            self._heard = time.monotonic()

    def _outcome(self, message: Response | Overrun) -> None:
        """Keep what ends an instruction, which somebody else sent."""
        if Arrival(message, time.monotonic_ns()).terminal:
            self.dashboard.add(record_of_message(Instruction(), message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch the node until interrupted; 1 if there is none."""
    options = parse_with_ros_arguments(_parser(), sys.argv[1:] if arguments is None else arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    try:
        with Session("timebill_top", ros_arguments=options.given_ros_arguments) as session:
            watch = Watch(options.node, session)
            if not watch.wait_for_node(options.wait):
                print(
                    f"top: {options.node} said nothing on {TOPIC} for {options.wait:g} s: is it "
                    "running, and on this ROS_DOMAIN_ID?",
                    file=sys.stderr,
                )
                return 1
            if options.once:
                console.print(watch.dashboard.health())
            elif console.is_terminal:
                _show(watch, console, options.period)
            else:
                _print(watch, console, options.period)
    except KeyboardInterrupt:
        return 0
    return 0


def _show(watch: Watch, console: Console, period: float) -> None:
    """Draw the tables over and over in place."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(watch.dashboard.render(watch.silence), refresh=True)
            watch.listen(period)


def _print(watch: Watch, console: Console, period: float) -> None:
    """Print the tables over and over below each other, into a file or a pipe."""
    while True:
        console.print(watch.dashboard.render(watch.silence))
        watch.listen(period)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("top", __doc__)
    parser.add_argument("--node", type=node_name, default="/llm", help="name of the node")
    parser.add_argument("--once", action="store_true", help="print the diagnostics once and end")
    parser.add_argument(
        "--period", type=positive_seconds, default=0.5, help="s between two updates"
    )
    parser.add_argument(
        "--wait", type=positive_seconds, default=10.0, help="s to wait for the node"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
