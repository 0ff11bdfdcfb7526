# SPDX-License-Identifier: Apache-2.0
"""The figures of each outcome as plain numbers, for plotting tools."""

from __future__ import annotations

from contextlib import ExitStack

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64

from timebill_ros.runtime.outcome import Outcome

_DEPTH = 10
DEBUG_TOPICS = (
    "processing_time_ms",
    "predicted_time_ms",
    "response_tokens",
    "predicted_tokens",
    "alpha",
    "slack_ms",
)


class DebugTopics:
    """Publishes ``~/debug/*``: one number each per terminal outcome.

    processing_time_ms: from the start of execution to the outcome; of what was executed.
    response_tokens: N so far; of what was planned.
    alpha, predicted_time_ms, predicted_tokens: of the plan, where one was made; predicted_tokens
        where a prediction came in time.
    slack_ms: deadline minus the outcome's instant.

    Plain numbers, because plotting tools draw them without anybody's message package.
    """

    def __init__(self, node: LifecycleNode, topics: ExitStack) -> None:
        """Create the topics, which ``topics`` removes; managed: an inactive node is silent."""
        self._publishers = {}
        for name in DEBUG_TOPICS:
            publisher = node.create_lifecycle_publisher(Float64, f"~/debug/{name}", _DEPTH)
            topics.callback(node.destroy_lifecycle_publisher, publisher)
            self._publishers[name] = publisher

    def publish(self, outcome: Outcome) -> None:
        """Publish the figures of a terminal outcome."""
        timing, plan = outcome.timing, outcome.plan
        if timing.prefill > 0.0:
            self._number("processing_time_ms", timing.execution * 1e3)
        if plan is not None:
            self._number("alpha", plan.alpha)
            self._number("predicted_time_ms", plan.predicted_time * 1e3)
            self._number("response_tokens", outcome.response_tokens)
            if plan.predicted_tokens:
                self._number("predicted_tokens", plan.predicted_tokens)
        self._number("slack_ms", timing.slack * 1e3)

    def _number(self, name: str, value: float) -> None:
        self._publishers[name].publish(Float64(data=float(value)))
