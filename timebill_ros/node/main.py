# SPDX-License-Identifier: Apache-2.0
"""The executable ``llm_node``."""

from __future__ import annotations

import signal
import threading
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from timebill_ros.node.llm_node import LlmNode

# How soon a signal is noticed while no message comes, s.
_SIGNAL_POLL = 0.1
# How long an ending node goes on to send results, if any are owed, s.
_LEAVE = 0.3


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted; its lifecycle is driven from outside.

    rclpy's own signal handlers would shut the context down at once, and with it the publishers
    that are to announce what was in flight. So the signals only ask the node to end, from before
    others can see it.
    """
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = LlmNode(ending)
    # Single-threaded: messages wait for nothing here, and the engine has a thread of its own.
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not ending.is_set():
            executor.spin_once(timeout_sec=_SIGNAL_POLL)
    finally:
        _take_leave(node, executor)
        node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()
        # A terminal and launch may both interrupt; the second signal must not kill Python's exit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _take_leave(node: LlmNode, executor: SingleThreadedExecutor) -> None:
    """Announce what is in flight; the results of goals leave through the executor."""
    goals = node.goals_pending
    node.release()
    end = time.monotonic() + _LEAVE
    while goals and time.monotonic() < end:
        executor.spin_once(timeout_sec=end - time.monotonic())


if __name__ == "__main__":
    main()
