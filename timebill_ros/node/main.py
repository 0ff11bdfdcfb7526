# SPDX-License-Identifier: Apache-2.0
"""The node that answers language-model instructions within their deadline.

Its parameters come after --ros-args, as in: --ros-args -p model:=embedded -p threads:=2
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from timebill_ros.node.command_line import command_parser
from timebill_ros.runtime.serving_threads import wait_passively

if TYPE_CHECKING:
    from timebill_ros.node.guard import GuardedExecutor
    from timebill_ros.node.llm_node import LlmNode

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How soon a signal is noticed while no message comes, s.
_SIGNAL_POLL = 0.1
# How long an ending node waits for goals to end, and then for clients to ask for the results, s.
_END = 2.0
_LEAVE = 0.5


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; 1 if it was to start by itself and cannot.

    Unless ``--autostart`` is given, its lifecycle is driven from outside.

    A signal ends the process in order, with status 0, whenever it comes: the handlers are there
    before what takes seconds to import, and stay until Python has ended.
    """
    ending = threading.Event()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: ending.set())
    try:
        from rclpy.utilities import remove_ros_args

        options = _parser().parse_args(remove_ros_args(args)[1:])
        wait_passively()  # before torch is imported
        if ending.is_set():  # what comes now takes seconds to import
            return 0
        from timebill_ros.node.llm_node import LlmNode

        return 0 if ending.is_set() else _run(LlmNode, args, ending, autostart=options.autostart)
    finally:
        # A terminal and launch may both interrupt. Python takes its handlers away as it ends, and
        # what is not ignored would kill it then.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _run(
    make_node: type[LlmNode], args: list[str] | None, ending: threading.Event, *, autostart: bool
) -> int:
    """Spin a node until it is to end.

    rclpy's own signal handlers would shut the context down at once, and with it the publishers
    that are to announce what was in flight. So the signals only ask the node to end, from before
    others can see it.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from timebill_ros.node.guard import GuardedExecutor

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = make_node(ending)
    # Single-threaded: messages wait for nothing here, and the engine has a thread of its own.
    executor = GuardedExecutor()
    executor.add_node(node)
    failed = False
    try:
        started = executor.create_task(_start(node)) if autostart else None
        if started is None:
            node.get_logger().info("unconfigured: waits to be configured and activated")
        while not (failed or ending.is_set()):
            executor.spin_once(timeout_sec=_SIGNAL_POLL)
            if started is not None and started.done():
                failed = not started.result() and not ending.is_set()
    finally:
        _take_leave(node, executor)
        node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()
    return int(failed)


async def _start(node: LlmNode) -> bool:
    """Configure and activate; whether both succeeded."""
    from lifecycle_msgs.msg import Transition

    configured = await node.change_state(Transition.TRANSITION_CONFIGURE)
    return configured and await node.change_state(Transition.TRANSITION_ACTIVATE)


def _take_leave(node: LlmNode, executor: GuardedExecutor) -> None:
    """Announce what is in flight; the results of goals leave through the executor."""
    owed = node.goals_pending > 0
    node.release()
    end = time.monotonic() + _END
    while node.goals_pending and (left := end - time.monotonic()) > 0.0:
        executor.spin_once(timeout_sec=left)
    end = time.monotonic() + _LEAVE
    while owed and (left := end - time.monotonic()) > 0.0:
        executor.spin_once(timeout_sec=left)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("llm_node", __doc__)
    parser.add_argument(
        "--autostart",
        action="store_true",
        help="configure and activate at once, where no launch file or operator does",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
