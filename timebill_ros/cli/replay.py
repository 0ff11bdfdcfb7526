# SPDX-License-Identifier: Apache-2.0
"""Replay a recording of instructions and say how many were answered in time.

RECORDING is a rosbag2 of timebill_ros/msg/Instruction (a folder, .mcap or .db3), or an arrival
trace (.csv with the columns TIMESTAMP, ContextTokens, GeneratedTokens).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin

from timebill_ros.cli.replay_arguments import parse, settings_of
from timebill_ros.client.client import NodeAbsent
from timebill_ros.client.node_process import NodeProcess, NodeProcessError
from timebill_ros.client.record import write_csv
from timebill_ros.replay.bag import Bag, with_lengths
from timebill_ros.replay.bag_files import BagWriter
from timebill_ros.replay.figures import Figures
from timebill_ros.replay.live import Heartbeat, LiveReplay
from timebill_ros.replay.recording import (
    BadInput,
    Keep,
    Lengths,
    Outcomes,
    Recorded,
    Tempo,
)
from timebill_ros.replay.simulated import (
    assumed,
    load_time_model,
    recalled_profile,
    replay_simulated,
)
from timebill_ros.replay.trace import Budget, read_lengths, read_trace
from timebill_ros.runtime.harmless import harmless_line, harmless_text

_CONFIGURE = 600.0  # s


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay; 0 if every expectation held, 1 if not or if it went wrong, 2 for bad input."""
    options = parse(arguments, __doc__ or "")
    # An orderly end, so that the bag is complete and a node of our own ends with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _replay(options)
    except BadInput as fault:
        print(f"replay: {harmless_line(str(fault))}", file=sys.stderr)
        return fault.exit_status
    except (NodeAbsent, NodeProcessError, OSError) as failure:
        print(f"replay: {harmless_text(str(failure))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _replay(options: argparse.Namespace) -> int:
    recorded, storage = _read(options)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    play = _simulate if options.simulate else _play
    outcomes = play(options, recorded, storage)
    figures = Figures(outcomes.records)
    print(figures.table())
    if options.out is not None:
        _write(options.out, figures, _title(options))
    failures = [f"fault: {fault}" for fault in outcomes.faults]
    failures += [told for e in options.expect if (told := e.failure(figures)) is not None]
    for told in failures:
        print(f"replay: {harmless_line(told)}", file=sys.stderr)
    return 1 if failures else 0


def _read(options: argparse.Namespace) -> tuple[list[Recorded], StoragePlugin]:
    """What is to be replayed, and how a bag of it is best stored."""
    if options.recording.suffix.lower() == ".csv":
        budget = Budget(options.budget or 0.0, options.budget_per_token or 0.0)
        return (
            read_trace(options.recording, budget, filled=not options.simulate),
            StoragePlugin.MCAP,
        )
    bag = Bag(options.recording, options.topic, by_stamp=options.by_stamp)
    for note in bag.notes:
        print(f"replay: note: {harmless_line(note)}", file=sys.stderr)
    recorded = bag.recorded
    if options.lengths is not None:
        recorded = with_lengths(recorded, _lengths_of(options.lengths))
    return recorded, bag.storage


def _lengths_of(path: Path) -> dict[str, Lengths]:
    """Lengths by id, from a table or from another bag's outcomes."""
    if path.suffix.lower() == ".csv":
        return read_lengths(path)
    return {r.instruction.id: r.lengths for r in Bag(path).recorded if r.lengths is not None}


def _simulate(
    options: argparse.Namespace, recorded: Sequence[Recorded], storage: StoragePlugin
) -> Outcomes:
    settings = settings_of(options.ros_arguments)
    source = options.time_model or recalled_profile(settings)
    model = load_time_model(source)
    print(harmless_line(f"simulated with the time model {source.name}"), file=sys.stderr)
    if options.assume_lengths is not None:
        recorded = assumed(recorded, options.assume_lengths)
    tempo = Tempo(options.rate, options.clock)
    with _keeping(options, storage) as keep:
        return replay_simulated(recorded, settings, model, tempo, keep)


def _play(
    options: argparse.Namespace, recorded: Sequence[Recorded], storage: StoragePlugin
) -> Outcomes:
    with _keeping(options, storage) as keep, _node(options) as (domain, heartbeat):
        tempo = Tempo(options.rate, options.clock)
        replay = LiveReplay(
            options.node,
            domain,
            tempo,
            keep,
            heartbeat,
            ros_arguments=options.given_ros_arguments,
        )
        return replay.run(recorded, wait=options.wait, patience=options.patience)


@contextmanager
def _node(options: argparse.Namespace) -> Iterator[tuple[int | None, Heartbeat]]:
    """The domain of the node, one of our own where that is asked for, and a look at its health."""
    if not options.start:
        yield None, lambda: None
        return
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with NodeProcess(
        {"use_sim_time": True} if options.clock else {},
        ros_arguments=[*options.ros_arguments, *options.given_ros_arguments],
        on_log=lambda text: print(f"  node | {harmless_line(text)}", file=sys.stderr, flush=True),
    ) as node:
        node.configure(_CONFIGURE)
        node.activate()
        yield node.domain, node.check_alive
        node.shutdown()


@contextmanager
def _keeping(options: argparse.Namespace, storage: StoragePlugin) -> Iterator[Keep | None]:
    """Writes messages into a new bag where one is asked for."""
    if options.out is None:
        yield None
        return
    with BagWriter(options.out / "bag", storage, options.node) as bag:
        yield bag.write


def _write(folder: Path, figures: Figures, title: str) -> None:
    write_csv(folder / "replay.csv", figures.records)
    figures.write_csv(folder / "figures.csv")
    written = ["bag", "replay.csv", "figures.csv"]
    if importlib.util.find_spec("matplotlib") is None:
        print("replay: no picture: matplotlib is not installed", file=sys.stderr)
    else:
        from timebill_ros.replay.chart import draw_replay

        draw_replay(folder / "replay.png", figures, title)
        written.append("replay.png")
    print(f"written to {folder}: {', '.join(written)}")


def _title(options: argparse.Namespace) -> str:
    how = "in virtual time" if options.simulate else f"into {options.node}"
    clock = "on its own clock" if options.clock else "on the wall clock"
    return f"{options.recording.name}, replayed {how} at rate {options.rate:g}, {clock}"


if __name__ == "__main__":
    sys.exit(main())
