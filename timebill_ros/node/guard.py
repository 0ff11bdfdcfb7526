# SPDX-License-Identifier: Apache-2.0
"""Nothing that arrives over DDS ends the process, and every request gets an answer.

rclpy runs callbacks of its own for the services of lifecycle, parameters, log levels and type
descriptions, for /clock, for the action and for events of the middleware. Some of them raise at
requests that anybody may send, and what a callback raises leaves ``spin``. Two guards stand
against it: the executor logs what any callback raises, and the services answer with their refusal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.executors import (
    ConditionReachedException,
    ShutdownException,
    SingleThreadedExecutor,
    TimeoutException,
    TimeoutObject,
)
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future, Task

from timebill_ros.runtime.harmless import harmless_line

# Longest time between two reports of one kind; a fault that comes with every message is told once.
_REPORT_PERIOD = 1.0


class GuardedExecutor(SingleThreadedExecutor):
    """A single-threaded executor that logs what a callback raises, and goes on.

    What waiting itself raises is no message's doing, and is raised.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for one callback and run it."""
        self._run_next(timeout_sec, _never)

    def spin_once_until_future_complete(
        self, future: Future, timeout_sec: float | TimeoutObject | None = None
    ) -> None:
        """Wait for one callback and run it, unless the future is complete before."""
        future.add_done_callback(lambda _: self.wake())
        self._run_next(timeout_sec, future.done)

    def _run_next(
        self, timeout: float | TimeoutObject | None, condition: Callable[[], bool]
    ) -> None:
        try:
            ready: tuple[Task, Any, Any] = self.wait_for_ready_callbacks(timeout, None, condition)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return
        task, entity, _ = ready
        task()
        if (fault := task.exception()) is not None:
            _release(entity)
            what = "" if entity is None else f" of {_name(entity)}"
            get_logger("timebill_ros.executor").error(
                f"a callback{what} failed: {_told(fault)}",
                throttle_duration_sec=_REPORT_PERIOD,
            )


def _release(entity: Any) -> None:
    """Wait again for an entity whose message could not be taken, and for its callback group.

    rclpy releases both only once it has the message (7.1, ``Executor._make_handler``): the node's
    whole group would never be served again.
    """
    if getattr(entity, "_executor_event", False):
        entity._executor_event = False
        entity.callback_group.ending_execution(entity)


def _never() -> bool:
    """The same object at every call: rclpy begins its round of entities anew for another one."""
    return False


def guard_services(node: Node) -> None:
    """Have each of the node's services answer a request that its callback cannot bear."""
    for service in node.services:
        guard = _guard_set_parameters if service.srv_type is SetParameters else _guard
        service.callback = guard(service.callback, service.srv_name, node)


def _guard(callback: Callable[..., Any], name: str, node: Node) -> Callable[..., Any]:
    """The callback, answering with the unset response, which says "no", instead of raising."""

    async def answer(request: Any, response: Any) -> Any:
        try:
            answered = callback(request, response)
            return await answered if inspect.isawaitable(answered) else answered
        except Exception as fault:  # noqa: BLE001 - no request may end the process
            node.get_logger().error(
                f"a request to {name} was refused: {_told(fault)}",
                throttle_duration_sec=_REPORT_PERIOD,
            )
            refusal = type(response)()
            if isinstance(refusal, SetParametersAtomically.Response):
                refusal.result = SetParametersResult(successful=False, reason=_told(fault))
            return refusal

    return answer


def _guard_set_parameters(
    callback: Callable[..., Any], name: str, node: Node
) -> Callable[..., Any]:
    """The callback, run for one parameter after another, so that a bad one costs no other."""
    one = _guard(callback, name, node)

    async def answer(request: Any, response: Any) -> Any:
        for parameter in request.parameters:
            if _is_unchanged(node, parameter):
                response.results.append(SetParametersResult(successful=True))
                continue
            single = await one(SetParameters.Request(parameters=[parameter]), type(response)())
            if not single.results:
                told = harmless_line(parameter.name)
                reason = f"{told}: its type, {parameter.value.type}, or value is none"
                single.results = [SetParametersResult(successful=False, reason=reason)]
            response.results.append(single.results[0])
        return response

    return answer


def _is_unchanged(node: Node, message: ParameterMsg) -> bool:
    """Whether this sets one that cannot be set to what it is, as loading a dump does."""
    try:
        given, name = Parameter.from_parameter_msg(message), message.name
        read_only = node.has_parameter(name) and node.describe_parameter(name).read_only
        return read_only and node.get_parameter(name).value == given.value
    except Exception:  # noqa: BLE001 - what is wrong with it is for setting it to say
        return False


def _told(fault: BaseException) -> str:
    return harmless_line(f"{type(fault).__name__}: {fault}")


def _name(entity: object) -> str:
    """What a user knows a service, subscription or the like by."""
    for attribute in ("srv_name", "topic_name"):
        if hasattr(entity, attribute):
            return str(getattr(entity, attribute))
    return type(entity).__name__
