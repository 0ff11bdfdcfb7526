# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that goes on serving requests while it is configured."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Future

from timebill_ros.node.guard import guard_services
from timebill_ros.runtime.harmless import harmless_line

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_SHUTDOWNS = (
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
# What may be asked for. The others of a state are how rclpy itself says that a callback has ended.
_ON_REQUEST = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "clean up",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    **dict.fromkeys(_SHUTDOWNS, "shut down"),
}
_UNKNOWN = -1
# Longest wait for a loading that was told to end, s.
_CANCEL_TIMEOUT = 10.0


class ManagedNode(LifecycleNodeMixin, Node):
    """Configures in three parts, of which the long one runs on a thread of its own.

    rclpy's change of state is one call, which would keep the executor for as long as a model takes
    to load. Here the request is a coroutine: it enters the state "configuring", has a thread load,
    and goes on when that has ended. Meanwhile the executor serves everything else. A request that
    does not fit the state is refused, in words in the log; cleaning up or shutting down while the
    node is configuring cancels that.

    Its transitions are triggered on the executor's thread. ``trigger_configure`` stays rclpy's,
    which loads before it returns.
    """

    def __init__(self, name: str, **node_options: Any) -> None:
        """An unconfigured node; ``node_options`` are those of ``rclpy.node.Node``."""
        Node.__init__(self, name, **node_options)
        # Reentrant, so that a change of state that waits keeps no other request waiting.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._answer_change_state  # type: ignore[assignment]
        guard_services(self)
        self._loader: threading.Thread | None = None
        self._settling = False
        self._configured = Future()

    def begin_loading(self) -> None:
        """Get ready to load, at once; what this raises fails the configuration."""

    def load(self) -> None:
        """Load, however long it takes; runs beside the executor's thread."""

    def finish_loading(self) -> None:
        """Take over what was loaded, at once, on the executor's thread."""

    def loading_failed(self, failure: Exception) -> None:
        """Give back what the three parts hold; one of them raised ``failure``."""

    def cancel_loading(self) -> None:
        """Have ``load`` raise soon; from any thread."""

    def settle(self, *, release: bool) -> None:
        """Have what is in flight end, and with ``release`` give back what is held.

        However long it takes; runs beside the executor's thread, before a transition that does it.
        """

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and return when that is done: for ``trigger_configure``."""
        try:
            self.begin_loading()
            self.load()
            self.finish_loading()
        except Exception as failure:  # noqa: BLE001 - whatever a room below raises is told here, once
            self.loading_failed(failure)
            return FAILURE
        return super().on_configure(state)

    @property
    def state(self) -> str:
        """The state of the lifecycle that the node is in."""
        return str(self._state_machine.current_state[1])

    async def change_state(self, transition: int) -> bool:
        """Make a transition, one of ``lifecycle_msgs/Transition``; whether it was made."""
        if self._loader is not None and transition in (
            Transition.TRANSITION_CLEANUP,
            *_SHUTDOWNS,
        ):
            self.get_logger().info("configuring is canceled")
            self.cancel_loading()
            await self._configured
            return transition not in _SHUTDOWNS or bool(self.trigger_shutdown() == SUCCESS)
        if self._settling:
            self.get_logger().error("the node cannot change its state now: it ends its work")
            return False
        possible = {entry[0] for entry in self._state_machine.available_transitions}
        if transition not in possible or transition not in _ON_REQUEST:
            doing = _ON_REQUEST.get(transition, f"make the transition {transition}")
            self.get_logger().error(f"the node cannot {doing} now: it is {self.state}")
            return False
        if transition == Transition.TRANSITION_CONFIGURE:
            return bool(await self._configure() == SUCCESS)
        if transition != Transition.TRANSITION_ACTIVATE:
            release = transition != Transition.TRANSITION_DEACTIVATE
            self._settling = True
            try:
                await self._beside("settling", functools.partial(self.settle, release=release))[1]
            finally:
                self._settling = False
        triggers = {
            Transition.TRANSITION_CLEANUP: self.trigger_cleanup,
            Transition.TRANSITION_ACTIVATE: self.trigger_activate,
            Transition.TRANSITION_DEACTIVATE: self.trigger_deactivate,
        }
        return bool(triggers.get(transition, self.trigger_shutdown)() == SUCCESS)

    def stop_loading(self) -> None:
        """Cancel a configuration under way and wait until its thread has ended."""
        loader = self._loader
        if loader is None:
            return
        self.cancel_loading()
        loader.join(_CANCEL_TIMEOUT)
        if loader.is_alive():
            self.get_logger().error(f"loading did not end within {_CANCEL_TIMEOUT} s")

    def destroy_node(self) -> None:
        """Leave the graph now; rclpy forgets the state machine, which keeps a node's name there."""
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    async def _configure(self) -> TransitionCallbackReturn:
        """The transition "configure", whose long part other callbacks need not wait for."""
        machine = self._state_machine
        machine.trigger_transition_by_id(Transition.TRANSITION_CONFIGURE, True)
        self._configured = Future()
        try:
            self.begin_loading()
            await self._loaded()
            self.finish_loading()
            state = LifecycleState("unconfigured", State.PRIMARY_STATE_UNCONFIGURED)
            code = LifecycleNodeMixin.on_configure(self, state)
        except Exception as failure:  # noqa: BLE001 - as in on_configure
            self.loading_failed(failure)
            code = FAILURE
        ended = "transition_success" if code == SUCCESS else "transition_failure"
        machine.trigger_transition_by_label(ended, True)
        self._configured.set_result(None)
        return code

    async def _loaded(self) -> None:
        """Run ``load`` on a thread, and return when it has."""
        self._loader, done = self._beside("loader", self.load)
        try:
            await done
        finally:
            self._loader = None

    def _beside(self, name: str, work: Callable[[], None]) -> tuple[threading.Thread, Future]:
        """Start ``work`` on a thread; the future is done when it has ended."""
        done = Future()

        def run() -> None:
            try:
                work()
            except Exception as failure:  # noqa: BLE001 - raised where the thread is waited for
                done.set_exception(failure)
            else:
                done.set_result(None)
            if (executor := self.executor) is not None:
                executor.wake()

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread, done

    async def _answer_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        asked = request.transition
        transition = self._by_label(asked.label) if asked.label else asked.id
        if transition == _UNKNOWN:
            label = harmless_line(asked.label, 100)
            self.get_logger().error(
                f"there is no transition '{label}' now: the node is {self.state}"
            )
        response.success = transition != _UNKNOWN and await self.change_state(transition)
        return response

    def _by_label(self, label: str) -> int:
        """The transition of this label; while configuring, those that cancel it have theirs."""
        if self._loader is not None and label in ("cleanup", "shutdown"):
            shutdown = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN
            return int(shutdown if label == "shutdown" else Transition.TRANSITION_CLEANUP)
        for identifier, name, *_ in self._state_machine.available_transitions:
            if name == label:
                return int(identifier)
        return _UNKNOWN
