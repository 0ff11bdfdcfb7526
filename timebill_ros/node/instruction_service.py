# SPDX-License-Identifier: Apache-2.0
"""Takes instructions, from the topic and from callers, to the server of a configured node."""

from __future__ import annotations

import threading
import uuid

from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message

import timebill_ros.msg as msg
from timebill_ros.engine.protocol import Progress
from timebill_ros.node.conversions import Caller, job_from
from timebill_ros.node.diagnostics import Reports
from timebill_ros.node.managed_node import ManagedNode
from timebill_ros.node.ros_clock import RosClock
from timebill_ros.node.serialized import refusal_of
from timebill_ros.node.topics import OutcomeTopics
from timebill_ros.runtime.admission import Limits, Reception, fault_of
from timebill_ros.runtime.clock import Clock, MonotonicClock
from timebill_ros.runtime.health import engine_report
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import JobStopped, Reason
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.quote import Quote
from timebill_ros.runtime.running_server import RunningServer, start_server
from timebill_ros.runtime.settings import Settings

# Longest wait for the engine's present piece of work, a chunk or a step, when closing, s.
_PIECE_TIMEOUT = 10.0
_INACTIVE = "the node is inactive"


class ServiceSetup:
    """What a node holds while it is configured: topics for outcomes, and the server to come.

    The topics are created on the executor's thread, the server is loaded on any other.
    """

    def __init__(self, node: ManagedNode, settings: Settings) -> None:
        """Create the topics for outcomes."""
        self.settings = settings
        self.ros_clock = RosClock(node.get_clock())
        simulated = node.get_parameter("use_sim_time").value
        self.clock: Clock = self.ros_clock if simulated else MonotonicClock()
        self.outcomes = OutcomeTopics(node, settings)
        self._lock = threading.Lock()
        self._running: RunningServer | None = None

    def load(self, progress: Progress) -> None:
        """Load everything, telling ``progress``; closed until the service is opened.

        Raises:
            Exception: the setting or file that cannot be worked with, by name.
        """
        self._running = start_server(
            self.settings,
            clock=self.clock,
            emit=self.outcomes.publish,
            observe=self.outcomes.observer,
            progress=progress,
        )
        self._running.server.close(_INACTIVE)

    @property
    def running(self) -> RunningServer:
        """What was loaded."""
        if self._running is None:
            raise RuntimeError("nothing was loaded yet")
        return self._running

    def end(self) -> None:
        """End the server's threads and give its memory back, once; on any thread."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.release(_PIECE_TIMEOUT)

    def release(self) -> None:
        """Give back the memory and the topics."""
        self.ros_clock.close()
        self.end()
        self.outcomes.close()


class InstructionService:
    """Takes instructions for the server that was set up; closed until ``open``."""

    def __init__(self, node: ManagedNode, setup: ServiceSetup) -> None:
        """Open the instructions' topic."""
        self._node = node
        self._setup = setup
        self._running = setup.running
        self._settings = setup.settings
        self._limits = self._limits_of(setup.settings)
        # A user may bound how many instructions wait in the reader; the oldest are lost then.
        overridable = QoSOverridingOptions([QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH])
        self._subscription = node.create_subscription(
            msg.Instruction,
            "~/input/instruction",
            self._receive,
            QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE),
            qos_overriding_options=overridable,
            raw=True,
        )
        setup.ros_clock.follow(self._rewound)

    def _rewound(self, by: float) -> None:
        """Simulated time was set back, as a bag does that is played in a loop."""
        self._running.server.rewind(
            f"clock: jumped back by {by:.3f} s, to before the release of this instruction"
        )

    @property
    def device(self) -> str:
        """Where the model runs, for people."""
        return self._running.device

    @property
    def max_prompt_chars(self) -> int:
        """A prompt of more characters cannot fit the model's context."""
        return self._running.max_prompt_chars

    @property
    def goal_lease(self) -> float:
        """How long goals go on although nobody listens to the action, s; 0 for ever."""
        return self._settings.goal_lease

    def reports(self) -> Reports:
        """How the service does, by subject."""
        health = self._setup.outcomes.health.reports(self._running.server, self._settings)
        return {**health, "engine": engine_report(self._running.chain)}

    def open(self) -> None:
        """Accept instructions from now on."""
        self._running.server.open()

    def apply(self, settings: Settings) -> None:
        """Take over what may change while the node is configured."""
        self._settings = settings
        self._limits = self._limits_of(settings)
        self._setup.outcomes.apply(settings)
        self._running.decide(decisions(settings))

    def close(self) -> None:
        """Reject instructions from now on, and announce those in flight as canceled."""
        self._running.server.close(_INACTIVE)
        if not self._running.server.wait_until_idle(_PIECE_TIMEOUT):
            self._node.get_logger().error(f"the engine did not stop within {_PIECE_TIMEOUT} s")
            self._running.server.abandon(f"{_INACTIVE}, and the engine did not stop")

    def destroy(self) -> None:
        """Close, give the memory back, remove the topics."""
        self.close()
        self._node.destroy_subscription(self._subscription)
        self._setup.release()

    def _limits_of(self, settings: Settings) -> Limits:
        return Limits(settings.default_budget, settings.max_budget, self._running.max_prompt_chars)

    def take(
        self,
        message: msg.Instruction,
        *,
        id: str,
        caller: Caller | None = None,
        fault: str | None = None,
    ) -> Job:
        """Turn an instruction into a job; ROS time is converted here and nowhere else.

        The job's outcome may be there before this returns.

        Args:
            message: as it arrived.
            id: its own, or one that was made for it.
            caller: is told of the job's progress and outcome.
            fault: why it is refused, if that is known already.
        """
        received = Reception(self._setup.ros_clock.now_ns(), self._setup.clock.now_ns())
        budget = self._limits.default_budget
        job = job_from(message, id=id, received=received, default_budget=budget, caller=caller)
        fault = fault or fault_of(job, received, self._limits)
        if fault is None:
            self._running.server.submit(job)
        else:
            self._running.server.reject(job, fault)
        return job

    def job_to_quote(self, message: msg.Instruction) -> Job:
        """The job of an instruction that is not sent, released now.

        Raises:
            JobStopped: it would be refused, for this reason.
        """
        received = Reception(self._setup.ros_clock.now_ns(), self._setup.clock.now_ns())
        budget = self._limits.default_budget
        job = job_from(message, id=message.id, received=received, default_budget=budget)
        if fault := fault_of(job, received, self._limits):
            raise JobStopped(Reason.REJECTED, fault)
        return job

    def quote(self, job: Job) -> Quote:
        """What the job could be promised, on a thread that may wait some milliseconds.

        Raises:
            JobStopped: it would be refused, for this reason.
        """
        return self._running.quotes.quote(job)

    @property
    def waiting(self) -> int:
        """Instructions that wait."""
        return self._running.server.queue_depth

    def cancel(self, job: Job, detail: str) -> bool:
        """Withdraw a job, see ``Server.cancel``."""
        return self._running.server.cancel(job, detail)

    def _receive(self, serialized: bytes) -> None:
        """Refuse what should not be taken apart, take what may be."""
        refusal = refusal_of(serialized, self.max_prompt_chars)
        message = refusal.message if refusal else deserialize_message(serialized, msg.Instruction)
        self.take(message, id=message.id or made_id(), fault=refusal.detail if refusal else None)


def made_id() -> str:
    """An id for an instruction without one, which no client's can equal but by intent."""
    return str(uuid.uuid4())
