# SPDX-License-Identifier: Apache-2.0
"""How instructions and their outcomes travel, and the topics that tell of outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Float64

import timebill_ros.msg as msg
from timebill_ros.node.conversions import context_of, overrun_msg, partial_msg, response_msg
from timebill_ros.node.diagnostics import ServerHealth
from timebill_ros.node.managed_node import ManagedNode
from timebill_ros.runtime.clock import MonotonicClock
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Observer, Outcome, Partial, Periodically, Response
from timebill_ros.runtime.settings import Settings

# Reliable, because nobody repeats an instruction. Volatile, because an instruction that waits for a
# node to come back is late. All are kept, because each is owed an outcome: a burst of them stays
# whole until its reader comes to it. Readers of outcomes use the same settings.
INSTRUCTION_QOS = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
OUTCOME_QOS = INSTRUCTION_QOS

# Outcomes that may be on their way beside those of a full queue that is given up at once: as many
# as instructions in a burst, of which Fast DDS keeps 5000 with the client and 5000 with the node.
_OUTCOMES_UNDER_WAY = 10_000
# The last ones are enough: each holds all of the text so far.
_PARTIAL_DEPTH = 10
_DEBUG_DEPTH = 10
# "transient_local" serves readers that come late. What would lose outcomes or stop the engine's
# thread, best effort or a writer that waits for its readers, is not offered.
_OVERRIDABLE = QoSOverridingOptions([QoSPolicyKind.DURABILITY])

DEBUG_TOPICS = (
    "processing_time_ms",
    "predicted_time_ms",
    "response_tokens",
    "predicted_tokens",
    "model",
    "rho",
    "alpha",
    "risk",
    "slack_ms",
)


def written_outcome_qos(queue_capacity: int) -> QoSProfile:
    """How the node writes outcomes: a slow reader does not stop the engine's thread.

    The history is bounded, so that writing never waits, and deep enough for what deactivating a
    node with a full queue announces at once.
    """
    return QoSProfile(
        depth=queue_capacity + _OUTCOMES_UNDER_WAY, reliability=ReliabilityPolicy.RELIABLE
    )


class OutcomeTopics:
    """Publishes what becomes of instructions, and tells their callers.

    Every outcome is published, a caller's too, so that a recording of the topics is complete.
    Overruns go out through an ordinary publisher, so that an instruction to an inactive node is
    answered too; responses through a managed one.
    """

    def __init__(self, node: ManagedNode, settings: Settings) -> None:
        """Create the topics; where one cannot be, none is left behind."""
        self._settings = settings
        self.health = ServerHealth()
        with ExitStack() as topics:
            self._create(node, topics)
            self._topics = topics.pop_all()

    def _create(self, node: ManagedNode, topics: ExitStack) -> None:
        def managed(kind: type, name: str, qos: QoSProfile | int, **options: Any) -> Any:
            publisher = node.create_lifecycle_publisher(kind, name, qos, **options)
            topics.callback(node.destroy_lifecycle_publisher, publisher)
            return publisher

        qos = written_outcome_qos(self._settings.queue_capacity)
        self._responses = managed(
            msg.Response, "~/output/response", qos, qos_overriding_options=_OVERRIDABLE
        )
        self._partials = managed(msg.Partial, "~/output/partial", _PARTIAL_DEPTH)
        self._debug = DebugTopics(
            {name: managed(Float64, f"~/debug/{name}", _DEBUG_DEPTH) for name in DEBUG_TOPICS}
        )
        qos = written_outcome_qos(self._settings.queue_capacity)
        self._overruns = node.create_publisher(
            msg.Overrun, "~/output/overrun", qos, qos_overriding_options=_OVERRIDABLE
        )
        topics.callback(node.destroy_publisher, self._overruns)

    def apply(self, settings: Settings) -> None:
        """Publish partial responses as these settings say."""
        self._settings = settings

    def close(self) -> None:
        """Remove the topics."""
        self._topics.close()

    def publish(self, outcome: Outcome) -> None:
        """Publish an outcome and tell its caller; from any thread."""
        self.health.add(outcome)
        if isinstance(outcome, Response):
            message, topic, terminal = response_msg(outcome), self._responses, True
        else:
            message, topic, terminal = overrun_msg(outcome), self._overruns, outcome.terminal
        caller = context_of(outcome.job).caller
        if caller is not None and terminal:
            caller.ended(message)
        topic.publish(message)
        if terminal:
            self._debug.publish(outcome, self._settings.models)

    def observer(self, job: Job) -> Observer | None:
        """Who watches a job that starts: its caller, and the topic if it is switched on."""
        caller, on_topic = context_of(job).caller, self._settings.publish_partial
        if caller is None and not on_topic:
            return None

        def show(partial: Partial) -> None:
            message = partial_msg(partial)
            if caller is not None:
                caller.progress(message)
            if on_topic:
                self._partials.publish(message)

        return Periodically(show, self._settings.partial_period, MonotonicClock())


class DebugTopics:
    """Publishes ``~/debug/*``: one number each per terminal outcome.

    processing_time_ms: from the start of execution to the outcome; of what was executed.
    response_tokens: N so far; of what was planned.
    model: which of the parameter ``models`` was chosen, from 0; 0 where there is one alone.
    rho, alpha, predicted_time_ms, predicted_tokens, risk: of the plan, where one was made;
        predicted_tokens where a prediction came in time, risk where it is known.
    slack_ms: deadline minus the outcome's instant.

    Plain numbers, because plotting tools draw them without anybody's message package.
    """

    def __init__(self, publishers: Mapping[str, Publisher]) -> None:
        """Publish on these, by the name of the figure."""
        self._publishers = publishers

    def publish(self, outcome: Outcome, models: Sequence[str]) -> None:
        """Publish the figures of a terminal outcome; ``models`` are those that there are."""
        timing, plan = outcome.timing, outcome.plan
        if timing.prefill > 0.0:
            self._number("processing_time_ms", timing.execution * 1e3)
        if plan is not None:
            self._number("model", models.index(plan.model) if plan.model in models else 0)
            self._number("rho", plan.rho)
            self._number("alpha", plan.alpha)
            self._number("predicted_time_ms", plan.predicted_time * 1e3)
            self._number("response_tokens", outcome.response_tokens)
            if plan.predicted_tokens:
                self._number("predicted_tokens", plan.predicted_tokens)
            if plan.risk is not None:
                self._number("risk", plan.risk)
        self._number("slack_ms", timing.slack * 1e3)

    def _number(self, name: str, value: float) -> None:
        self._publishers[name].publish(Float64(data=float(value)))
