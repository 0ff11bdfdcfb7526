# SPDX-License-Identifier: Apache-2.0
"""Show a running node: its state, its deadlines and its last outcomes, as they change."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import timebill_ros.msg as msg
from timebill_ros.cli.arguments import node_name, positive_seconds
from timebill_ros.client.exchange import Arrival
from timebill_ros.client.record import Ending, Record, record_of_message
from timebill_ros.client.session import Session
from timebill_ros.node.command_line import command_parser, parse_with_ros_arguments
from timebill_ros.node.diagnostics import TOPIC, status_name
from timebill_ros.runtime.harmless import harmless_line
from timebill_ros.runtime.health import (
    MISS_RATIO,
    OUTCOMES,
    PEAK_MEMORY,
    PRESENT_MEMORY,
    QUEUE_CAPACITY,
    QUEUE_DEPTH,
)

_ROWS = 12
_LEVELS = {
    DiagnosticStatus.OK: ("ok", "green"),
    DiagnosticStatus.WARN: ("warn", "yellow"),
    DiagnosticStatus.ERROR: ("error", "bold red"),
    DiagnosticStatus.STALE: ("stale", "dim"),
}
_NO_LEVEL = ("?", "bold red")
_SUBJECTS = ("state", "deadlines", "queue", "prediction", "memory")
_NOTHING = "-"


class Dashboard:
    """One node's diagnostics and its last outcomes.

    Attributes:
        outcomes: records of the last ended instructions, the newest first.
    """

    def __init__(self, node: str) -> None:
        """Nothing is known of ``node`` yet, which is its full name."""
        self._node = node
        self._names = {status_name(node, subject): subject for subject in _SUBJECTS}
        self._statuses: dict[str, DiagnosticStatus] = {}
        self.outcomes: deque[Record] = deque(maxlen=_ROWS)

    @property
    def heard(self) -> bool:
        """Whether the node has said anything of itself."""
        return bool(self._statuses)

    def take(self, array: DiagnosticArray) -> bool:
        """Keep what a diagnostics message says of the node; whether it said anything."""
        ours = {self._names[s.name]: s for s in array.status if s.name in self._names}
        if ours:
            self._statuses = ours
        return bool(ours)

    def add(self, record: Record) -> None:
        """Keep the outcome of one more instruction."""
        self.outcomes.appendleft(record)

    def render(self, silence: float = 0.0) -> RenderableType:
        """The tables; ``silence`` is how long the node has said nothing, s."""
        return Group(self.health(silence), self._outcome_table())

    def health(self, silence: float = 0.0) -> Table:
        """The first table: the diagnostics alone."""
        title = Text(self._node, style="bold")
        if silence > 0.0:
            title.append(f"  silent for {silence:.0f} s", style="bold red")
        table = Table(title=title, title_justify="left", expand=True)
        for heading in ("subject", "level", "figures", "why"):
            table.add_column(heading, ratio=3 if heading in ("figures", "why") else None)
        for subject, status in self._statuses.items():
            name, style = _LEVELS.get(status.level, _NO_LEVEL)
            values = {value.key: value.value for value in status.values}
            figures = _shown(_figures(subject, values, status.hardware_id))
            table.add_row(subject, Text(name, style=style), figures, _shown(status.message))
        return table

    def _outcome_table(self) -> Table:
        table = Table(
            title=Text("last outcomes"), title_justify="left", expand=True, show_edge=False
        )
        table.add_column("id")
        table.add_column("outcome")
        several = len({r.plan.model for r in self.outcomes if r.plan is not None}) > 1
        if several:
            table.add_column("model")
        for heading in (
            "rho",
            "alpha",
            "tokens\npred.",
            "\nact.",
            "time, s\npred.",
            "\nact.",
            "slack, s",
        ):
            table.add_column(heading, justify="right")
        for record in self.outcomes:
            table.add_row(*_row(record, several=several))
        if not self.outcomes:
            table.add_row(Text("none since this began to watch", style="dim"))
        return table


def _shown(text: str) -> Text:
    """What others have written, in a cell of its own; anybody may publish in a node's name."""
    return Text(harmless_line(text))


def _figures(subject: str, values: dict[str, str], hardware_id: str) -> str:
    """The figures of a subject that are worth a look, in one line."""
    if subject == "state":
        return f"on {hardware_id}" if hardware_id else ""
    if subject == "deadlines":
        counts = {k.removeprefix(OUTCOMES): v for k, v in values.items() if k.startswith(OUTCOMES)}
        told = [f"miss ratio {values.get(MISS_RATIO, _NOTHING)}"]
        return ", ".join([*told, *(f"{count} {kind}" for kind, count in counts.items())])
    if subject == "queue":
        return f"{values.get(QUEUE_DEPTH, _NOTHING)} of {values.get(QUEUE_CAPACITY, _NOTHING)} wait"
    if subject == "memory":
        present, peak = (values.get(key, _NOTHING) for key in (PRESENT_MEMORY, PEAK_MEMORY))
        return f"{present} MiB, at most {peak}"
    return ", ".join(f"{key} {value}" for key, value in values.items() if "error" in key)


def _row(record: Record, *, several: bool) -> list[Text]:
    plan = record.plan
    whole = record.ending is Ending.IN_TIME and not record.truncated
    style = "green" if whole else "yellow"
    cells = [
        f"{plan.rho:.2f}" if plan else _NOTHING,
        f"{plan.alpha:.2f}" if plan else _NOTHING,
        str(plan.predicted_tokens) if plan and plan.predicted_tokens else _NOTHING,
        str(record.response_tokens) if record.response_tokens else _NOTHING,
        f"{plan.predicted_time:.3f}" if plan else _NOTHING,
        f"{record.execution:.3f}" if record.execution and plan else _NOTHING,
        f"{record.timing.slack:+.3f}",
    ]
    model = [_shown(plan.model if plan else _NOTHING)] if several else []
    return [_shown(record.id), Text(record.outcome, style=style), *model, *map(Text, cells)]


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
        ros.create_subscription(msg.Response, f"{node}/output/response", self._outcome, _QOS)
        ros.create_subscription(msg.Overrun, f"{node}/output/overrun", self._outcome, _QOS)

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

    def _outcome(self, message: msg.Response | msg.Overrun) -> None:
        """Keep what ends an instruction, which somebody else sent."""
        if Arrival(message, time.monotonic_ns()).terminal:
            self.dashboard.add(record_of_message(msg.Instruction(), message))


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
