# SPDX-License-Identifier: Apache-2.0
"""A run of instructions with deadlines over DDS, as the demos make it: table, CSV and picture."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import timebill_ros.msg as msg
from timebill_ros.cli.scenario import HEAD_START
from timebill_ros.client.client import InstructionClient
from timebill_ros.client.exchange import Arrival, Exchange
from timebill_ros.client.node_process import NodeProcess
from timebill_ros.client.record import HEADER, Record, line, write_csv
from timebill_ros.node.conversions import nanoseconds
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.harmless import harmless_line

SPARE = 30.0  # s beyond its deadline that a terminal message may take


class RunFailed(Exception):
    """The run does not show what it should; the message says what is missing."""


class NodeLog:
    """Prints the lines of the node's log, but a line that repeats the last one only once."""

    def __init__(self) -> None:
        self._last = ""

    def add(self, text: str) -> None:
        """Take a line."""
        if text != self._last:
            print(f"  node | {harmless_line(text)}", flush=True)
        self._last = text


def send_in_groups(
    node: NodeProcess,
    groups: Sequence[Sequence[msg.Instruction]],
    prompt_tokens: Mapping[str, int],
    legend: str,
) -> list[Record]:
    """Send the instructions group by group, wait for the end of each, and print a line for each.

    Of a group, the first is sent ``HEAD_START`` before the others, which so wait for it.

    Args:
        node: the active node.
        groups: instructions with ids of their own and a budget.
        prompt_tokens: N_x by id, for the table's lines on instructions that never ran.
        legend: what the ids mean.

    Returns:
        What became of them, in the order of their release.

    Raises:
        RunFailed: nothing was heard of some of them.
    """
    table = _Table(prompt_tokens)
    with InstructionClient(
        server=node.name, domain=node.domain, by_topic=True, on_arrival=table.add
    ) as client:
        client.wait_for_node()
        count = sum(map(len, groups))
        print(f"\n{count} instructions with deadlines. {legend}.\n{HEADER}", flush=True)
        for group in groups:
            for position, instruction in enumerate(group):
                if position == 1:
                    client.spin(HEAD_START)
                client.send(instruction)
            longest = max(seconds(nanoseconds(instruction.budget)) for instruction in group)
            if not client.wait_for_all(longest + SPARE):
                silent = [name for name, sent in client.exchanges.items() if not sent.done()]
                raise RunFailed(f"nothing was heard of {', '.join(silent)}")
    return sorted(table.records, key=lambda record: record.released)


class _Table:
    """Prints a line per ended instruction, as they arrive.

    Attributes:
        records: the ended instructions so far.
    """

    def __init__(self, prompt_tokens: Mapping[str, int]) -> None:
        self.records: list[Record] = []
        self._prompt_tokens = prompt_tokens

    def add(self, exchange: Exchange, arrival: Arrival) -> None:
        """Take a message; only the terminal one makes a line."""
        if not arrival.terminal:
            return
        record = exchange.record(self._prompt_tokens[exchange.instruction.id])
        if record is not None:
            self.records.append(record)
            print(line(record), flush=True)


def print_outcomes(records: Sequence[Record]) -> None:
    """How many ended in which way."""
    counts = Counter(record.outcome for record in records)
    print("\noutcomes: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def write_files(path: Path, records: Sequence[Record], title: str) -> None:
    """Leave the run as ``path`` with the suffix .csv and, if matplotlib is there, .png."""
    write_csv(path.with_suffix(".csv"), records)
    print(f"written: {path.with_suffix('.csv')}")
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    from timebill_ros.replay.picture import draw_run

    draw_run(path.with_suffix(".png"), records, title)
    print(f"written: {path.with_suffix('.png')}")
