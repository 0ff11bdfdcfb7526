# SPDX-License-Identifier: Apache-2.0
"""What is published of an outcome: whole bursts, and which numbers in which unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float64, Header

from timebill_ros import msg
from timebill_ros.budget.plan import Plan
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.node.conversions import JobContext
from timebill_ros.node.topics import DEBUG_TOPICS, DebugTopics, OutcomeTopics
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Outcome, Overrun, Reason, Response, Stage, Timing
from timebill_ros.runtime.settings import Settings

from .bench import Bench

JOB = Job("a", Conversation("", "stop"), 0, 10)
PLAN = Plan(
    "timebill",
    0.25,
    True,
    100,
    (),
    16,
    80,
    predicted_time=0.125,
    wcet=0.5,
    rho=0.5,
    risk=0.02,
    model="small",
)
TIMING = Timing(queued=1.0, prefill=0.5, evict=0.25, decode=0.125, total=2.0, slack=-0.5)
ANSWER = Response(JOB, "", FinishReason.EOS, False, 3, PLAN, 0.1, TIMING)
KILLED = Overrun(JOB, Reason.KILLED, Stage.DECODE, "", TIMING, "", 3, PLAN)
ALL = {
    "processing_time_ms": 875.0,
    "predicted_time_ms": 125.0,
    "response_tokens": 3.0,
    "predicted_tokens": 16.0,
    "model": 1.0,
    "rho": 0.5,
    "alpha": 0.25,
    "risk": 0.02,
    "slack_ms": -500.0,
}


class Topic:
    """A publisher that keeps what is published, once."""

    def __init__(self, name: str, numbers: dict[str, float]) -> None:
        self.name, self.numbers = name, numbers

    def publish(self, message: Float64) -> None:
        assert self.name not in self.numbers
        self.numbers[self.name] = message.data


def published(outcome: Outcome) -> dict[str, float]:
    numbers: dict[str, float] = {}
    DebugTopics({name: Topic(name, numbers) for name in DEBUG_TOPICS}).publish(
        outcome, ["large", "small"]
    )
    return numbers


@pytest.mark.parametrize("outcome", [ANSWER, KILLED])
def test_what_was_planned_and_run_has_every_number(outcome: Outcome) -> None:
    assert published(outcome) == ALL
    assert tuple(ALL) == DEBUG_TOPICS


def test_without_a_prediction_no_length_is_made_up() -> None:
    unpredicted = replace(ANSWER, plan=replace(PLAN, predicted_tokens=0))
    assert ALL.keys() - published(unpredicted).keys() == {"predicted_tokens"}


def test_what_was_killed_before_its_plan_tells_its_work_only() -> None:
    found = published(replace(KILLED, plan=None, stage=Stage.PREFILL))
    assert found == {"processing_time_ms": 875.0, "slack_ms": -500.0}


def test_what_never_ran_tells_its_slack_only() -> None:
    waited = Timing(queued=1.0, total=1.0, slack=0.25)
    assert published(Overrun(JOB, Reason.EXPIRED, Stage.QUEUED, "", waited)) == {"slack_ms": 250.0}


def test_a_full_queue_that_is_given_up_at_once_is_announced_whole(bench: Bench) -> None:
    node = bench.node()
    topics = OutcomeTopics(node, Settings(queue_capacity=3000))
    bench.until(lambda: node.count_subscribers("/llm/output/overrun") == 1)
    bench.until(lambda: bench.client.count_publishers("/llm/output/overrun") == 1)
    for number in range(3001):
        job = replace(JOB, id=f"j{number}", context=JobContext(Header()))
        topics.publish(replace(KILLED, job=job, reason=Reason.CANCELED))
    bench.until(lambda: len(bench.overruns) == 3001)
    assert bench.terminal() == [f"j{number}" for number in range(3001)]
    topics.close()


def test_a_reader_that_comes_late_is_served_where_a_parameter_says_so(bench: Bench) -> None:
    durability = "qos_overrides./llm/output/overrun.publisher.durability"
    topics = OutcomeTopics(bench.node(**{durability: "transient_local"}), Settings())
    job = replace(JOB, context=JobContext(Header()))
    topics.publish(replace(KILLED, job=job))
    came: list[msg.Overrun] = []
    late = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.client.create_subscription(msg.Overrun, "/llm/output/overrun", came.append, late)
    bench.until(lambda: len(came) == 1)
    topics.close()
