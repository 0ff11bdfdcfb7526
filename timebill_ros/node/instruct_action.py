# SPDX-License-Identifier: Apache-2.0
"""The action ``~/instruct``: instructions whose answers can be watched and canceled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from uuid import UUID

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

import timebill_ros.msg as msg
from timebill_ros.action import Instruct
from timebill_ros.node.goal_requests import GoalRequests
from timebill_ros.node.instruction_service import InstructionService
from timebill_ros.node.topics import INSTRUCTION_QOS
from timebill_ros.runtime.clock import NS_PER_S, MonotonicClock
from timebill_ros.runtime.job import Job


class GoalLease:
    """Finds the goals whose clients must be gone: nobody has listened for as long as the lease.

    Every action client subscribes to the action's feedback, and what sends a goal does not say
    which subscription is its own. So the clients are counted together: the goals of one that is
    gone go on while another one listens. A goal begins its lease when it comes, since it may
    overtake the news of its client's subscription.
    """

    def __init__(self, listeners: Callable[[], int], now_ns: Callable[[], int]) -> None:
        """``listeners`` counts the subscriptions there are; ``now_ns`` is a monotonic clock."""
        self._listeners = listeners
        self._now_ns = now_ns
        self._heard_ns: dict[bytes, int] = {}  # per goal: when somebody was last known to listen

    def begin(self, goal: bytes) -> None:
        """A goal has come."""
        self._heard_ns[goal] = self._now_ns()

    def end(self, goal: bytes) -> None:
        """A goal is over, if it was not before."""
        self._heard_ns.pop(goal, None)

    def take_run_out(self, lease: float) -> list[bytes]:
        """The goals to which nobody has listened for ``lease`` s, once each; none where it is 0."""
        if not self._heard_ns:
            return []
        now_ns = self._now_ns()
        if self._listeners() > 0 or lease == 0.0:
            self._heard_ns = dict.fromkeys(self._heard_ns, now_ns)
            return []
        gone = [goal for goal, at in self._heard_ns.items() if now_ns - at >= lease * NS_PER_S]
        for goal in gone:
            del self._heard_ns[goal]
        return gone


# How long a client may take to ask for a result, s; until then the server keeps goal and result.
_RESULT_TIMEOUT = 10
_UNCONFIGURED = "the node is not configured"
_WITHDRAWN = "the client canceled the goal"
# How often the goals' leases are looked at, s.
_LEASE_PERIOD = 0.25


class InstructAction:
    """Hands goals to the service that the configured node has, and gives each its result.

    It lives as long as the node: a goal is answered in any state of the lifecycle, and what a
    transition ends still gets its result after it. Every goal is accepted; one that is refused ends
    as aborted with REJECTED, since a rejected goal could not say why.

    rclpy offers to answer a goal from its execute callback, on the executor. That callback may not
    wait for the engine: a blocking one would stop all messages, and a coroutine that awaits a
    future is resumed in vain whenever the executor wakes up (rclpy 7.1). So a goal is only noted
    when it is accepted, and executed once its outcome is there, which takes no time; until then its
    status is ACCEPTED. The engine's thread leaves that to the executor, as action servers are not
    made for several threads.
    """

    def __init__(self, node: Node) -> None:
        """Take goals; without a service, each is refused."""
        self._node = node
        self._service: InstructionService | None = None
        self._goals: dict[bytes, _Goal] = {}
        self._lease = GoalLease(self._listeners, MonotonicClock().now_ns)
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(_LEASE_PERIOD, self._end_forsaken, clock=self._clock)
        self._requests = GoalRequests()
        self._server = ActionServer(
            node,
            self._requests.action,
            "~/instruct",
            execute_callback=_never_without_outcome,
            handle_accepted_callback=self._accepted,
            cancel_callback=self._cancel,
            # By default ten requests are kept, and of a burst of goals the others never answered.
            goal_service_qos_profile=INSTRUCTION_QOS,
            result_service_qos_profile=INSTRUCTION_QOS,
            cancel_service_qos_profile=INSTRUCTION_QOS,
            result_timeout=_RESULT_TIMEOUT,
        )

    def attach(self, service: InstructionService) -> None:
        """Hand goals to this service from now on."""
        self._service = service
        self._requests.max_prompt_chars = service.max_prompt_chars

    def detach(self) -> None:
        """Refuse goals from now on; those in flight are the service's to end."""
        self._service = None

    @property
    def pending(self) -> int:
        """Goals that have not got their result yet."""
        return len(self._goals)

    def destroy(self) -> None:
        """Take no goals any more; what is pending gets no result."""
        self._node.destroy_timer(self._timer)
        self._server.destroy()

    def _accepted(self, handle: ServerGoalHandle) -> None:
        """Note the goal and pass its instruction on; an outcome may be there before this ends."""
        key = _key(handle)
        goal = self._goals[key] = _Goal(self._node, handle, lambda: self._forget(key))
        self._lease.begin(key)
        instruction = handle.request.instruction
        name = instruction.id or str(UUID(bytes=key))
        if self._service is None:
            goal.ended(
                msg.Overrun(
                    header=instruction.header,
                    id=name,
                    reason=msg.Overrun.REJECTED,
                    stage=msg.Overrun.QUEUED,
                    detail=_UNCONFIGURED,
                )
            )
        else:
            fault = self._requests.fault_of(key)
            goal.job = self._service.take(instruction, id=name, caller=goal, fault=fault)

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Withdraw the goal's job; a goal whose outcome is on its way cannot be canceled."""
        goal = self._goals.get(_key(handle))
        canceled = (
            goal is not None
            and goal.job is not None
            and self._service is not None
            and self._service.cancel(goal.job, _WITHDRAWN)
        )
        return CancelResponse.ACCEPT if canceled else CancelResponse.REJECT

    def _forget(self, key: bytes) -> None:
        """The goal has its result."""
        self._goals.pop(key, None)
        self._lease.end(key)

    def _listeners(self) -> int:
        """Subscriptions to the feedback: one per client that the middleware knows of."""
        name = self._node.resolve_topic_name("~/instruct/_action/feedback")
        return self._node.count_subscribers(name)

    def _end_forsaken(self) -> None:
        """Withdraw the jobs of goals whose clients are gone."""
        if self._service is None:
            return
        lease = self._service.goal_lease
        for key in self._lease.take_run_out(lease):
            goal = self._goals.get(key)
            if goal is not None and goal.job is not None:
                detail = f"goal_lease: nobody has listened to the action for {lease:g} s"
                self._service.cancel(goal.job, detail)


class _Goal:
    """A goal in flight: the ``Caller`` of its job.

    Attributes:
        job: what the service made of it.
    """

    def __init__(self, node: Node, handle: ServerGoalHandle, done: Callable[[], object]) -> None:
        """``done`` is called when the result is there."""
        self.job: Job | None = None
        self._node = node
        self._handle = handle
        self._done = done

    def progress(self, partial: msg.Partial) -> None:
        """Publish the feedback."""
        self._handle.publish_feedback(
            Instruct.Feedback(
                text=partial.text,
                response_tokens=partial.response_tokens,
                alpha=partial.alpha,
                slack=partial.slack,
            )
        )

    def ended(self, outcome: msg.Response | msg.Overrun) -> None:
        """Have the executor end the goal with this outcome."""
        executor = self._node.executor
        if executor is None:
            return  # Nobody spins the node any more, so that no result could leave it.
        executor.create_task(self._handle.execute, functools.partial(self._conclude, outcome))

    def _conclude(
        self, outcome: msg.Response | msg.Overrun, handle: ServerGoalHandle
    ) -> Instruct.Result:
        """The execute callback: the goal's last state, and its result."""
        self._done()
        if isinstance(outcome, msg.Response):
            handle.succeed()
            return Instruct.Result(response=outcome)
        if outcome.reason == msg.Overrun.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return Instruct.Result(error_code=outcome.reason, error_msg=outcome.detail, overrun=outcome)


def _never_without_outcome(handle: ServerGoalHandle) -> Instruct.Result:
    """rclpy wants a default execute callback; goals are executed with their own."""
    raise NotImplementedError(f"goal {_key(handle).hex()} was executed without an outcome")


def _key(handle: ServerGoalHandle) -> bytes:
    return bytes(handle.goal_id.uuid)
