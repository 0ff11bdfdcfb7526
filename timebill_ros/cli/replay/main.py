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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin

from timebill_ros.budget.errors import SettingError
from timebill_ros.cli.client import NodeAbsent
from timebill_ros.cli.node_process import NodeProcess, NodeProcessError
from timebill_ros.cli.record import Record, record_of_outcome, write_csv
from timebill_ros.cli.replay.arguments import parse
from timebill_ros.cli.replay.bag import Bag, BagWriter, with_lengths
from timebill_ros.cli.replay.figures import Figures
from timebill_ros.cli.replay.live import Heartbeat, Keep, LiveReplay, Outcomes
from timebill_ros.cli.replay.recording import BadInput, Lengths, Pace, Recorded
from timebill_ros.cli.replay.settings import settings_of
from timebill_ros.cli.replay.simulated import assumed, replay_simulated
from timebill_ros.cli.replay.time_models import load_time_model, recalled_profile
from timebill_ros.cli.replay.trace import Budget, read_lengths, read_trace
from timebill_ros.msg import Overrun as OverrunMsg
from timebill_ros.msg import Response as ResponseMsg
from timebill_ros.node.conversions import overrun_msg, response_msg
from timebill_ros.runtime.outcome import Outcome, Overrun

_CONFIGURE = 600.0  # s


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay; 0 if every expectation held, 1 if not or if it went wrong, 2 for bad input."""
    options = parse(arguments, __doc__ or "")
    # An orderly end, so that the bag is complete and a node of our own ends with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _replay(options)
    except BadInput as fault:
        print(f"replay: {fault}", file=sys.stderr)
        return fault.exit_status
    except (NodeAbsent, NodeProcessError, OSError) as failure:
        print(f"replay: {failure}", file=sys.stderr)
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
        print(f"replay: {told}", file=sys.stderr)
    return 1 if failures else 0


def _read(options: argparse.Namespace) -> tuple[list[Recorded], StoragePlugin]:
    """What is to be replayed, and how a bag of it is best stored."""
    if options.recording.suffix.lower() == ".csv":
        budget = Budget(options.budget or 0.0, options.budget_per_token or 0.0)
        return (
            read_trace(options.recording, budget, filled=not options.simulate),
            StoragePlugin.MCAP,
        )
    bag = Bag(options.recording, options.topic)
    for note in bag.notes:
        print(f"replay: note: {note}", file=sys.stderr)
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
    print(f"simulated with the time model {source.name}", file=sys.stderr)
    if options.assume_lengths is not None:
        recorded = assumed(recorded, options.assume_lengths)
    lengths = {r.instruction.id: r.lengths for r in recorded}
    ended: dict[str, list[Record]] = {r.instruction.id: [] for r in recorded}
    with _keeping(options, storage) as keep:

        def emit(at_ns: int, outcome: Outcome) -> None:
            if options.out is not None:
                keep(at_ns, _message_of(outcome))
            if not isinstance(outcome, Overrun) or outcome.terminal:
                known = lengths[outcome.job.id]
                tokens = known.prompt_tokens if known else 0
                ended[outcome.job.id].append(record_of_outcome(outcome, tokens))

        try:
            pace = Pace(options.rate, options.clock)
            model = load_time_model(source)
            replay_simulated(recorded, settings, model, pace, sent=keep, emit=emit)
        except SettingError as fault:
            raise BadInput(f"parameters: {fault}") from fault
    faults = [
        f"{name}: {len(records)} terminal outcomes"
        for name, records in ended.items()
        if len(records) != 1
    ]
    return Outcomes([record for records in ended.values() for record in records[:1]], faults)


def _play(
    options: argparse.Namespace, recorded: Sequence[Recorded], storage: StoragePlugin
) -> Outcomes:
    with _node(options) as (domain, heartbeat), _keeping(options, storage) as keep:
        pace = Pace(options.rate, options.clock)
        replay = LiveReplay(options.node, domain, pace, keep, heartbeat)
        return replay.run(recorded, wait=options.wait, patience=options.patience)


def _message_of(outcome: Outcome) -> OverrunMsg | ResponseMsg:
    """What the node would publish."""
    return overrun_msg(outcome) if isinstance(outcome, Overrun) else response_msg(outcome)


@contextmanager
def _node(options: argparse.Namespace) -> Iterator[tuple[int | None, Heartbeat]]:
    """The domain of the node, one of our own where that is asked for, and a look at its health."""
    if not options.start:
        yield None, lambda: None
        return
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with NodeProcess(
        {"use_sim_time": True} if options.clock else {},
        ros_arguments=options.ros_arguments,
        on_log=lambda text: print(f"  node | {text}", file=sys.stderr, flush=True),
    ) as node:
        node.configure(_CONFIGURE)
        node.activate()
        yield node.domain, node.check_alive
        node.shutdown()


@contextmanager
def _keeping(options: argparse.Namespace, storage: StoragePlugin) -> Iterator[Keep]:
    """Writes messages into a new bag where one is asked for."""
    with ExitStack() as stack:
        if options.out is None:
            yield lambda at_ns, message: None
        else:
            yield stack.enter_context(BagWriter(options.out / "bag", storage, options.node)).write


def _write(folder: Path, figures: Figures, title: str) -> None:
    write_csv(folder / "replay.csv", figures.records)
    figures.write_csv(folder / "figures.csv")
    written = ["bag", "replay.csv", "figures.csv"]
    if importlib.util.find_spec("matplotlib") is None:
        print("replay: no picture: matplotlib is not installed", file=sys.stderr)
    else:
        from timebill_ros.cli.replay.chart import draw_replay

        draw_replay(folder / "replay.png", figures, title)
        written.append("replay.png")
    print(f"written to {folder}: {', '.join(written)}")


def _title(options: argparse.Namespace) -> str:
    how = "in virtual time" if options.simulate else f"into {options.node}"
    clock = "on its own clock" if options.clock else "on the wall clock"
    return f"{options.recording.name}, replayed {how} at rate {options.rate:g}, {clock}"


if __name__ == "__main__":
    sys.exit(main())
