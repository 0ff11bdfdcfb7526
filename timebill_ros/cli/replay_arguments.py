# SPDX-License-Identifier: Apache-2.0
"""What `replay` is asked to do; whatever cannot be done is refused, nothing is ignored."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from timebill_ros.cli.arguments import node_name, positive_seconds
from timebill_ros.node.command_line import command_parser, parse_with_ros_arguments
from timebill_ros.node.parameter_specs import SPECS
from timebill_ros.node.parameters import Parameters
from timebill_ros.replay.figures import Expectation
from timebill_ros.replay.recording import BadInput, Lengths
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.settings import Settings

_FASTEST = 1e6
# s
_WAIT, _PATIENCE = 10.0, 60.0


def rate(text: str) -> float:
    """Recorded seconds per second.

    Raises:
        argparse.ArgumentTypeError: not above 0, or absurd.
    """
    value = float(text)
    if not 0.0 < value <= _FASTEST:
        raise argparse.ArgumentTypeError(f"a rate is above 0 and at most {_FASTEST:g}, not {text}")
    return value


def tokens(text: str) -> int:
    """A positive number of tokens.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    value = int(text)
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of tokens")
    return value


def expectation(text: str) -> Expectation:
    """An expectation of a figure.

    Raises:
        argparse.ArgumentTypeError: what is wrong with it.
    """
    try:
        return Expectation.parse(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def parse(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """The options; ends the process with status 2 where they do not fit together."""
    parser = _parser(description)
    options = parse_with_ros_arguments(parser, sys.argv[1:] if arguments is None else arguments)
    options.trace = options.recording.suffix.lower() == ".csv"
    if options.assume_lengths is not None:
        options.assume_lengths = Lengths(*options.assume_lengths)
    configured = bool(options.params or options.param)
    options.start = options.start or (configured and not options.simulate)
    if fault := _misfit(options):
        parser.error(fault)
    options.ros_arguments = []
    for path in options.params:
        options.ros_arguments += ["--params-file", str(path)]
    for assignment in options.param:
        options.ros_arguments += ["-p", assignment]
    options.node = options.node or "/llm"
    options.wait = options.wait or _WAIT
    options.patience = options.patience or _PATIENCE
    return options


def _misfit(options: argparse.Namespace) -> str | None:
    """What does not go together with what."""
    return (
        _node_misfit(options)
        or (_trace_misfit(options) if options.trace else _bag_misfit(options))
        or _parameter_misfit(options)
    )


def _node_misfit(options: argparse.Namespace) -> str | None:
    """What a replay into a node, or one without, has no use for."""
    if options.simulate:
        if options.given_ros_arguments:
            return "--ros-args do not go with --simulate: no node takes part"
        for name in ("start", "wait", "patience"):
            if getattr(options, name):
                return f"--{name} does not go with --simulate: no node takes part"
    else:
        for name in ("time_model", "lengths", "assume_lengths"):
            if getattr(options, name) is not None:
                return f"--{name.replace('_', '-')} is for --simulate: a node takes its own time"
    if options.start and options.node is not None:
        return "--node names a node that runs already: --start, --params and -p start one"
    return None


def _trace_misfit(options: argparse.Namespace) -> str | None:
    """What a trace has no use for, or lacks."""
    if options.topic:
        return "--topic is for bags: a trace has no topics"
    if options.by_stamp:
        return "--by-stamp is for bags: a trace has one time only"
    for name in ("lengths", "assume_lengths"):
        if getattr(options, name) is not None:
            return f"--{name.replace('_', '-')} is for bags: a trace has its lengths"
    if options.budget is None and options.budget_per_token is None:
        return "a trace has no deadlines: give --budget, --budget-per-token or both"
    return None


def _bag_misfit(options: argparse.Namespace) -> str | None:
    """What a bag has no use for."""
    if options.budget is not None or options.budget_per_token is not None:
        return "--budget and --budget-per-token are for traces: a bag has its deadlines"
    return None


def _parameter_misfit(options: argparse.Namespace) -> str | None:
    """What is no file of parameters, and no parameter."""
    for path in options.params:
        if not path.is_file():
            return f"--params {path}: there is no such file"
    for assignment in options.param:
        # ROS ignores what no node declares: a slip would replay with the default.
        name = assignment.partition(":=")[0].rpartition(":")[2]
        if name not in SPECS and name != "use_sim_time":
            return f"-p {assignment}: the node has no such parameter"
    return None


def _parser(description: str) -> argparse.ArgumentParser:
    parser = command_parser("replay", description)
    parser.add_argument("recording", type=Path, metavar="RECORDING", help="the bag or the trace")
    parser.add_argument("--topic", default="", help="play the instructions of this topic only")
    parser.add_argument(
        "--by-stamp",
        action="store_true",
        help="play each instruction when its own stamp says, not when it was recorded: for a bag "
        "whose stamps are of another clock",
    )
    parser.add_argument(
        "--rate", type=rate, default=1.0, help="recorded seconds per second (default 1)"
    )
    parser.add_argument(
        "--clock",
        action="store_true",
        help="publish the recorded time on /clock, for a node under use_sim_time; without it, "
        "stamps and deadlines are moved to now",
    )
    parser.add_argument("--out", type=Path, help="new bag, tables and picture go to this folder")
    parser.add_argument(
        "--expect",
        type=expectation,
        action="append",
        default=[],
        metavar="FIGURE>=NUMBER",
        help="fail unless it holds, for instance completion>=0.95 or latency_p99<=1.5; repeatable",
    )
    node = parser.add_argument_group("the node")
    node.add_argument("--node", type=node_name, help="name of a running node (default /llm)")
    node.add_argument("--start", action="store_true", help="start a node for this replay")
    node.add_argument(
        "--params",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="parameter file of the node that is started, or simulated; repeatable",
    )
    node.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="one parameter of it; repeatable",
    )
    node.add_argument(
        "--wait",
        type=positive_seconds,
        help=f"s to wait for a running node (default {_WAIT:g})",
    )
    node.add_argument(
        "--patience",
        type=positive_seconds,
        help="s of silence beyond the last deadline after which what has not ended counts as "
        f"missing (default {_PATIENCE:g})",
    )
    virtual = parser.add_argument_group("without a model")
    virtual.add_argument(
        "--simulate",
        action="store_true",
        help="virtual time: what each stage takes is computed, not run; exactly reproducible",
    )
    virtual.add_argument(
        "--time-model",
        type=Path,
        metavar="FILE",
        help="JSON of coefficients, or a kept profile (default: this machine's)",
    )
    virtual.add_argument(
        "--lengths",
        type=Path,
        metavar="BAG|CSV",
        help="lengths by id, where the bag itself has no outcomes: an earlier replay's",
    )
    virtual.add_argument(
        "--assume-lengths",
        type=tokens,
        nargs=2,
        metavar=("PROMPT", "RESPONSE"),
        help="lengths of instructions of which none are known, tokens",
    )
    trace = parser.add_argument_group("deadlines of a trace")
    trace.add_argument("--budget", type=positive_seconds, help="s from arrival to deadline")
    trace.add_argument(
        "--budget-per-token", type=positive_seconds, help="s more per generated token"
    )
    return parser


def settings_of(ros_arguments: Sequence[str]) -> Settings:
    """Read them as the node does: declared, checked, from files and single assignments.

    Args:
        ros_arguments: what follows --ros-args.

    Raises:
        BadInput: a file that cannot be read, or a value that does not fit, by name.
    """
    context = Context()
    try:
        rclpy.init(
            args=["--ros-args", *ros_arguments],
            context=context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = Node("llm", context=context, start_parameter_services=False)
        try:
            settings = Parameters(node).read()
            decisions(settings)  # for what only they check
            return settings
        finally:
            node.destroy_node()
    # rclpy's own errors have no common type: a parser's, a parameter's, a setting's.
    except Exception as failure:
        raise BadInput(f"parameters: {failure}") from failure
    finally:
        context.try_shutdown()
