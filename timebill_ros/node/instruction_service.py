# SPDX-License-Identifier: Apache-2.0
"""Everything that a configured node holds: its topics and the server behind them."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count

from rclpy.lifecycle import LifecycleNode

from timebill_ros.engine.protocol import Progress
from timebill_ros.msg import Instruction, Overrun, Partial, Response
from timebill_ros.node.conversions import (
    job_from,
    overrun_msg,
    partial_msg,
    response_msg,
)
from timebill_ros.node.debug_topics import DebugTopics
from timebill_ros.node.diagnostics import Reports, ServerHealth
from timebill_ros.node.origin import Caller, origin_of
from timebill_ros.node.qos import INSTRUCTION_QOS, OUTCOME_QOS
from timebill_ros.node.ros_clock import RosClock
from timebill_ros.runtime.admission import Limits, Reception, fault_of
from timebill_ros.runtime.clock import Clock, MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome
from timebill_ros.runtime.outcome import Response as ResponseOutcome
from timebill_ros.runtime.partial import Observer, Periodically
from timebill_ros.runtime.partial import Partial as PartialResponse
from timebill_ros.runtime.policy import decisions
from timebill_ros.runtime.running_server import start_server
from timebill_ros.runtime.settings import Settings

# The last ones are enough: each holds all of the text so far.
_PARTIAL_DEPTH = 10

# Longest wait for the engine's present piece of work, a chunk or a step, when closing, s.
_PIECE_TIMEOUT = 10.0
_INACTIVE = "the node is inactive"


class InstructionService:
    """Takes instructions, from a topic and from callers, and publishes their outcomes.

    Every outcome is published, a caller's too, so that a recording of the topics is complete.
    Overruns go out through an ordinary publisher, so that an instruction to an inactive node is
    answered too; responses through a managed one.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, progress: Progress) -> None:
        """Load everything, telling ``progress``, then open the topics; closed until ``open``.

        Raises:
            Exception: the setting or file that cannot be worked with, by name.
        """
        self._node = node
        self._ros_clock = RosClock(node.get_clock())
        simulated = node.get_parameter("use_sim_time").value
        self._clock: Clock = self._ros_clock if simulated else MonotonicClock()
        self._health = ServerHealth()
        self._settings = settings
        self._unnamed = count(1)
        self._running = start_server(
            settings,
            clock=self._clock,
            emit=self._publish,
            observe=self._observer,
            progress=progress,
        )
        self._running.server.close(_INACTIVE)
        self._limits = self._limits_of(settings)
        try:
            with ExitStack() as topics:
                self._create_topics(topics)
                self._ros_clock.follow(self._rewound)
                self._topics = topics.pop_all()
        except BaseException:
            self._running.release(_PIECE_TIMEOUT)
            raise

    def _create_topics(self, topics: ExitStack) -> None:
        """Create them, and have ``topics`` remove those there are, even if the next one fails."""
        node = self._node
        self._responses = node.create_lifecycle_publisher(
            Response, "~/output/response", OUTCOME_QOS
        )
        topics.callback(node.destroy_lifecycle_publisher, self._responses)
        self._overruns = node.create_publisher(Overrun, "~/output/overrun", OUTCOME_QOS)
        topics.callback(node.destroy_publisher, self._overruns)
        self._partials = node.create_lifecycle_publisher(
            Partial, "~/output/partial", _PARTIAL_DEPTH
        )
        topics.callback(node.destroy_lifecycle_publisher, self._partials)
        self._debug = DebugTopics(node, topics)
        subscription = node.create_subscription(
            Instruction, "~/input/instruction", self._receive, INSTRUCTION_QOS
        )
        topics.callback(node.destroy_subscription, subscription)

    def _rewound(self, by: float) -> None:
        """Simulated time was set back, as a bag does that is played in a loop."""
        self._running.server.rewind(
            f"clock: jumped back by {by:.3f} s, to before the release of this instruction"
        )

    @property
    def device(self) -> str:
        """Where the model runs, for people."""
        return self._running.device

    def reports(self) -> Reports:
        """How the service does, by subject."""
        return self._health.reports(self._running.server, self._settings)

    def open(self) -> None:
        """Accept instructions from now on."""
        self._running.server.open()

    def apply(self, settings: Settings) -> None:
        """Take over what may change while the node is configured."""
        self._settings = settings
        self._limits = self._limits_of(settings)
        self._running.server.decide(decisions(settings))

    def close(self) -> None:
        """Reject instructions from now on, and announce those in flight as canceled."""
        self._running.server.close(_INACTIVE)
        if not self._running.server.wait_until_idle(_PIECE_TIMEOUT):
            self._node.get_logger().error(f"the engine did not stop within {_PIECE_TIMEOUT} s")
            self._running.server.abandon(f"{_INACTIVE}, and the engine did not stop")

    def destroy(self) -> None:
        """Close, give the memory back, remove the topics."""
        self.close()
        self._ros_clock.close()
        self._running.release(_PIECE_TIMEOUT)
        self._topics.close()

    def _limits_of(self, settings: Settings) -> Limits:
        return Limits(settings.default_budget, settings.max_budget, self._running.max_prompt_chars)

    def take(self, message: Instruction, *, id: str, caller: Caller | None = None) -> Job:
        """Turn an instruction into a job; ROS time is converted here and nowhere else.

        The job's outcome may be there before this returns.

        Args:
            message: as it arrived.
            id: its own, or one that was made for it.
            caller: is told of the job's progress and outcome.
        """
        received = Reception(self._ros_clock.now_ns(), self._clock.now_ns())
        budget = self._limits.default_budget
        job = job_from(message, id=id, received=received, default_budget=budget, caller=caller)
        fault = fault_of(job, received, self._limits)
        if fault is None:
            self._running.server.submit(job)
        else:
            self._running.server.reject(job, fault)
        return job

    def cancel(self, job: Job, detail: str) -> bool:
        """Withdraw a job, see ``Server.cancel``."""
        return self._running.server.cancel(job, detail)

    def _receive(self, message: Instruction) -> None:
        self.take(message, id=message.id or f"{self._node.get_name()}-{next(self._unnamed)}")

    def _observer(self, job: Job) -> Observer | None:
        """Who watches a job that starts: its caller, and the topic if it is switched on."""
        caller, on_topic = origin_of(job).caller, self._settings.publish_partial
        if caller is None and not on_topic:
            return None

        def show(partial: PartialResponse) -> None:
            message = partial_msg(partial)
            if caller is not None:
                caller.progress(message)
            if on_topic:
                self._partials.publish(message)

        return Periodically(show, self._settings.partial_period, MonotonicClock())

    def _publish(self, outcome: Outcome) -> None:
        """Called on the engine's thread, or on the executor's for what never starts."""
        self._health.add(outcome)
        if isinstance(outcome, ResponseOutcome):
            message, topic, terminal = response_msg(outcome), self._responses, True
        else:
            message, topic, terminal = overrun_msg(outcome), self._overruns, outcome.terminal
        caller = origin_of(outcome.job).caller
        if caller is not None and terminal:
            caller.ended(message)
        topic.publish(message)
        if terminal:
            self._debug.publish(outcome)
