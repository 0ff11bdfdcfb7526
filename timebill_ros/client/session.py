# SPDX-License-Identifier: Apache-2.0
"""A ROS node for a command: its own context and domain, spun only while somebody waits."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Self

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

# How soon a condition is looked at again while no message comes, s.
_POLL = 0.02

# RTPS maps domains to UDP ports; above 101 they may meet ports that Linux hands out.
_PORT_BASE, _PORTS_PER_DOMAIN, _FIRST_UNICAST = 7400, 250, 10
_LAST_DOMAIN = 101
# How many participants' ports are looked at in a domain.
_PARTICIPANTS = 10


class Session:
    """One node and a single-threaded executor, in a context of its own.

    Callbacks run inside ``spin_until`` and nowhere else, so nothing here needs a lock.

    Attributes:
        node: create publishers, subscriptions and clients on it.
    """

    def __init__(
        self, name: str, domain: int | None = None, ros_arguments: Sequence[str] = ()
    ) -> None:
        """Join ``domain``, or the one that ROS_DOMAIN_ID names.

        ``ros_arguments`` are what a ROS tool takes after --ros-args, that included: remaps, mostly.
        """
        self._context = Context()
        rclpy.init(
            args=list(ros_arguments),
            context=self._context,
            domain_id=domain,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = Node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def spin_until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """See ``spin_until`` below."""
        return spin_until(self._executor, done, timeout)

    def wait_for(
        self, what: str, done: Callable[[], bool], timeout: float, *, untold: float = 2.0
    ) -> bool:
        """As ``spin_until``, but after ``untold`` s stderr tells ``what`` is waited for."""
        if self.spin_until(done, min(timeout, untold)):
            return True
        left = timeout - untold
        if left <= 0.0:
            return False
        print(f"waiting for {what}, up to {left:.3g} s more", file=sys.stderr, flush=True)
        return self.spin_until(done, left)

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the domain."""
        self.close()


def spin_until(executor: Executor, done: Callable[[], bool], timeout: float | None) -> bool:
    """Handle messages until ``done()`` or for ``timeout`` s, without end where None; is it done?"""
    end = None if timeout is None else time.monotonic() + timeout
    while not done():
        left = _POLL if end is None else min(_POLL, end - time.monotonic())
        if left <= 0.0:
            return False
        executor.spin_once(timeout_sec=left)
    return True


def free_domain() -> int:
    """The highest ROS domain that no process on this machine takes part in.

    From above, because people count theirs from 0. Another process may take it before its first
    node comes up: good enough to keep demos and tests apart, no reservation.

    Raises:
        RuntimeError: every domain is taken.
    """
    for domain in range(_LAST_DOMAIN, -1, -1):
        first = _PORT_BASE + _PORTS_PER_DOMAIN * domain + _FIRST_UNICAST
        # The first to come may be gone, and have left others behind.
        if all(_is_free(first + 2 * participant) for participant in range(_PARTICIPANTS)):
            return domain
    raise RuntimeError(f"no ROS domain from 0 to {_LAST_DOMAIN} is free on this machine")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
