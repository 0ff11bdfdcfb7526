# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node in a process of its own, driven through its lifecycle services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy import parameter
from rclpy.client import Client
from rclpy.task import Future

from timebill_ros.client.session import Session, free_domain

Parameter = str | bool | int | float | list[str]

# Lines of the node's log that an error shows.
_TAIL_LINES = 15
# The log is complete when nothing has come for so long, and taken as it is after so long, s.
_LOG_QUIET, _LOG_DELAY = 0.3, 3.0
# How long an answer about the state is waited for before it is asked for again, s.
_ASK_AGAIN = 2.0


class NodeProcessError(RuntimeError):
    """The node did not come up, did not answer, or refused a transition.

    The message ends with the last lines of its log.
    """


class NodeProcess:
    """Runs ``llm_node`` on a domain of its own; as a context, always ends it.

    Attributes:
        domain: ROS domain that the node runs in.
        name: fully qualified name of the node.
        process: the running process; its id tells memory and CPU time from outside.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        domain: int | None = None,
        namespace: str = "",
        ros_arguments: Sequence[str] = (),
        on_log: Callable[[str], None] | None = None,
        command: Sequence[str] | None = None,
        end_timeout: float = 15.0,
    ) -> None:
        """Describe the node; ``start`` or entering the context starts it.

        Args:
            parameters: overrides of the node's parameters.
            domain: ROS domain; a free one where None.
            namespace: of the node, without slashes around it.
            ros_arguments: more arguments after --ros-args, remaps for instance.
            on_log: gets every line of the node's log, on a thread of its own.
            command: runs this instead; by default the installed node, as ``node_command`` says.
            end_timeout: s that the process may take to end after each of SIGINT, SIGTERM and
                SIGKILL. The node announces what is in flight and waits for the engine's present
                piece of work.
        """
        self.domain = free_domain() if domain is None else domain
        self.name = f"/{namespace}/llm" if namespace else "/llm"
        self._command = command or node_command(parameters or {}, namespace, ros_arguments)
        self._end_timeout = end_timeout
        self._on_log = on_log
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._news = threading.Event()  # a line came

    def start(self, timeout: float = 120.0) -> None:
        """Start the process and wait for its lifecycle services.

        Raises:
            NodeProcessError: they did not come within ``timeout`` s.
        """
        self.process = subprocess.Popen(
            self._command,
            env=_environment(self.domain),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # The terminal's Ctrl-C reaches only us: we then end the node in order.
            start_new_session=True,
        )
        self._relay = threading.Thread(target=self._relay_log, daemon=True)
        self._relay.start()
        self._session = Session("timebill_lifecycle", self.domain)
        node = self._session.node
        self._change = node.create_client(ChangeState, f"{self.name}/change_state")
        self._get = node.create_client(GetState, f"{self.name}/get_state")
        self._set = node.create_client(
            SetParametersAtomically, f"{self.name}/set_parameters_atomically"
        )
        clients = (self._change, self._get, self._set)
        self._wait(
            "has no lifecycle services",
            lambda: all(client.service_is_ready() for client in clients),
            timeout,
        )

    def configure(self, timeout: float = 300.0) -> None:
        """Load, profile and warm up.

        Raises:
            NodeProcessError: it failed, or took longer than ``timeout`` s.
        """
        self._transition("configure", timeout)

    def activate(self, timeout: float = 10.0) -> None:
        """Have it accept instructions; raises ``NodeProcessError`` like ``configure``."""
        self._transition("activate", timeout)

    def deactivate(self, timeout: float = 30.0) -> None:
        """Have it end what is in flight; raises ``NodeProcessError`` like ``configure``."""
        self._transition("deactivate", timeout)

    def cleanup(self, timeout: float = 30.0) -> None:
        """Have it give its memory back; raises ``NodeProcessError`` like ``configure``."""
        self._transition("cleanup", timeout)

    def shutdown(self, timeout: float = 30.0) -> None:
        """Finalize it, from whatever state; raises ``NodeProcessError`` like ``configure``."""
        self._transition("shutdown", timeout)

    def state(self, timeout: float = 10.0) -> str:
        """Label of its primary state: unconfigured, inactive, active or finalized.

        Raises:
            NodeProcessError: no answer within ``timeout`` s.
        """
        answer = self._ask(self._get, GetState.Request(), timeout)
        label: str = answer.current_state.label
        return label

    def set_parameters(self, values: Mapping[str, Parameter], timeout: float = 10.0) -> None:
        """Set parameters, all or none; the node reads most of them when it is configured.

        Raises:
            NodeProcessError: the node refused a value, or no answer within ``timeout`` s.
        """
        given = [parameter.Parameter(name, value=value) for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=[p.to_parameter_msg() for p in given])
        result = self._ask(self._set, request, timeout).result
        if not result.successful:
            raise self._error(f"refused {dict(values)}: {result.reason}")

    def check_alive(self) -> None:
        """Raise ``NodeProcessError`` if the process has ended by itself."""
        if (status := self.process.poll()) is not None:
            self._relay.join(self._end_timeout)
            raise self._error(f"ended with status {status}")

    def log_tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._tail)

    def stop(self) -> int:
        """End the process: ask, then insist, then kill. Returns its exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            try:
                self.process.wait(self._end_timeout)
            except subprocess.TimeoutExpired:
                continue
        self._session.close()
        self._relay.join(self._end_timeout)
        return self.process.wait(self._end_timeout)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()

    def _transition(self, label: str, timeout: float) -> None:
        request = ChangeState.Request(transition=Transition(label=label))
        if not self._call(self._change, request, timeout).success:
            raise self._error(f"failed to {label}")

    def _ask(self, client: Client, request: Any, timeout: float) -> Any:
        """As ``_call``, for what may be asked twice.

        Asked again: DDS drops an answer to a client that the node has not discovered yet.
        """
        asked: list[Future] = []
        ask_at = time.monotonic()

        def answered() -> bool:
            nonlocal ask_at
            if time.monotonic() >= ask_at:
                asked.append(client.call_async(request))
                ask_at += _ASK_AGAIN
            return any(future.done() for future in asked)

        self._wait(f"did not answer {client.srv_name}", answered, timeout)
        return next(future for future in asked if future.done()).result()

    def _call(self, client: Client, request: Any, timeout: float) -> Any:
        """The service's answer; rclpy's requests and answers have no common type."""
        future = client.call_async(request)
        self._wait(f"did not answer {client.srv_name}", future.done, timeout)
        return future.result()

    def _wait(self, failing: str, done: Callable[[], bool], timeout: float) -> None:
        """Spin until ``done``, unless the process ends or ``timeout`` s pass before."""
        ended = self._session.spin_until(lambda: done() or self.process.poll() is not None, timeout)
        if not ended:
            raise self._error(f"{failing} after {timeout:g} s")
        if not done():
            self._relay.join(self._end_timeout)
            raise self._error(f"ended with status {self.process.returncode}")

    def _error(self, what: str) -> NodeProcessError:
        self._let_log_arrive()
        return NodeProcessError(f"the node {self.name} {what}; its last lines:\n{self.log_tail()}")

    def _let_log_arrive(self) -> None:
        """Wait until the log is quiet: the reason comes through a pipe, the answer does not."""
        end = time.monotonic() + _LOG_DELAY
        while self._news.wait(_LOG_QUIET) and time.monotonic() < end:
            self._news.clear()

    def _relay_log(self) -> None:
        output = self.process.stdout
        for line in output if output is not None else ():
            self._tail.append(line.rstrip("\n"))
            self._news.set()
            if self._on_log is not None:
                self._on_log(self._tail[-1])


def node_command(
    parameters: Mapping[str, Parameter], namespace: str, ros_arguments: Sequence[str]
) -> list[str]:
    """The command line that starts the node with these parameters, each of its own type."""
    # -P: a clone of the package in the working directory must not hide the installed one.
    command = [sys.executable, "-P", "-m", "timebill_ros", "llm_node", "--ros-args"]
    if namespace:
        command += ["-r", f"__ns:=/{namespace}"]
    for name, value in parameters.items():
        # JSON is YAML with every type spelled out: "none" and "1" stay strings.
        command += ["-p", f"{name}:={json.dumps(value)}"]
    return [*command, *ros_arguments]


def _environment(domain: int) -> dict[str, str]:
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
        "RCUTILS_CONSOLE_OUTPUT_FORMAT": os.environ.get(
            "RCUTILS_CONSOLE_OUTPUT_FORMAT", "[{severity}] {message}"
        ),
    }
