# SPDX-License-Identifier: Apache-2.0
"""The node's lifecycle inside this process, with a small model and real messages."""

from __future__ import annotations

import uuid

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message

from timebill_ros.msg import ChatMessage, Instruction, Overrun
from timebill_ros.node.conversions import nanoseconds

from .bench import AMPLE, FAILURE, HELD, SUCCESS, Bench, Hold

# An answer that ends after 50 tokens and not before.
LONG = '{"type": "string", "pattern": "^[ab]{50}$"}'
TURN = [ChatMessage(role="user", content="x")]


def test_an_active_node_answers_with_plan_and_timing(bench: Bench) -> None:
    bench.active()
    bench.send("a")
    bench.until(lambda: bench.terminal() == ["a"])
    response = bench.responses[0]
    assert response.text
    assert response.header.stamp.sec > 0
    assert response.plan.planner == "expected"
    assert response.plan.prompt_tokens > 0
    assert response.plan.predicted_tokens > 0
    assert response.timing.total.sec * 10**9 + response.timing.total.nanosec > 0
    assert not response.late


def test_every_bad_instruction_gets_its_one_answer(bench: Bench) -> None:
    bench.active()
    past = bench.nodes[0].get_clock().now().to_msg()
    past.sec -= 5
    bench.send("empty", prompt="")
    bench.send("negative", budget=-1.0)
    bench.send("absurd", budget=1e6)
    bench.send("past", deadline=past)
    bench.send("long", prompt="stop " * 2000)
    bench.send("greedy", max_tokens=5000)
    bench.send("twice", prompt="stop " * 900)
    bench.send("twice")
    bench.send("", prompt="stop")
    bench.until(lambda: len(bench.terminal()) == 9)
    details = {o.id: (o.reason, o.detail) for o in bench.overruns}
    rejected = {
        id: detail for id, (reason, detail) in details.items() if reason == Overrun.REJECTED
    }
    assert rejected["empty"].startswith("prompt: ")
    assert rejected["negative"].startswith("budget: ")
    assert rejected["absurd"].startswith("budget: ")
    assert rejected["long"].startswith("prompt: ")
    assert rejected["greedy"].startswith("max_tokens: ")
    assert rejected["twice"].startswith("id: ")
    assert details["past"][0] == Overrun.EXPIRED
    named = {r.id for r in bench.responses} - {"twice"}
    assert len(named) == 1
    assert uuid.UUID(named.pop())


def test_a_burst_loses_nothing(bench: Bench) -> None:
    bench.active(queue_capacity=4)
    for i in range(400):
        bench.send(f"j{i}")
    bench.until(lambda: len(bench.terminal()) >= 400)
    assert sorted(bench.terminal()) == sorted(f"j{i}" for i in range(400))


def test_text_that_was_not_utf8_is_rejected_by_its_field(bench: Bench) -> None:
    bench.active()
    # What the middleware makes of bytes that are not UTF-8.
    bench.send("broken", prompt=b"st\xffp".decode("utf-8", "replace"))
    bench.until(lambda: bench.terminal() == ["broken"])
    assert bench.overruns[0].detail.startswith("prompt: character 2 is U+FFFD")


def test_a_million_turns_are_refused_before_they_are_taken_apart(bench: Bench) -> None:
    bench.active()
    one = serialize_message(Instruction(id="endless", prompt="stop", messages=TURN))
    two = serialize_message(Instruction(id="endless", prompt="stop", messages=TURN * 2))
    turn, start = two[len(one) :], two.index(b"user") - 4
    many = one[:start] + turn * 1_000_000
    bench.send_raw(many[: start - 4] + (1_000_000).to_bytes(4, "little") + many[start:])
    bench.send("after")
    bench.until(lambda: len(bench.terminal()) == 2)
    assert [r.id for r in bench.responses] == ["after"]
    assert bench.overruns[0].id == "endless"
    assert "bytes is longer than" in bench.overruns[0].detail


def test_an_inactive_node_rejects(bench: Bench) -> None:
    node = bench.node()
    assert node.trigger_configure() == SUCCESS
    bench.connect()
    bench.send("early")
    bench.until(lambda: bench.terminal() == ["early"])
    assert bench.overruns[0].reason == Overrun.REJECTED
    assert bench.overruns[0].detail == "the node is inactive"


def test_deactivating_announces_what_is_in_flight(bench: Bench) -> None:
    node = bench.active()
    bench.send("answered")
    bench.until(lambda: bench.terminal() == ["answered"])
    hold = Hold(bench)
    for i in range(8):
        bench.send(f"j{i}", max_tokens=100, response_schema=LONG)
    bench.until(lambda: hold.steps == HELD)
    hold.let_go_once_canceled()
    assert node.trigger_deactivate() == SUCCESS
    bench.until(lambda: len(bench.terminal()) == 9)
    assert [response.id for response in bench.responses] == ["answered"]
    assert {o.detail for o in bench.overruns} == {"the node is inactive"}
    assert {o.reason for o in bench.overruns} <= {Overrun.CANCELED, Overrun.REJECTED}


def test_a_node_can_be_activated_again_and_configured_again(bench: Bench) -> None:
    node = bench.active()
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    bench.send("again")
    bench.until(lambda: bench.terminal() == ["again"])
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    bench.connect()
    bench.send("anew")
    bench.until(lambda: bench.terminal() == ["again", "anew"])


@pytest.mark.parametrize("steps", [[], ["configure"], ["configure", "activate"]])
def test_shutdown_is_clean_in_any_state(bench: Bench, steps: list[str]) -> None:
    node = bench.node()
    for step in steps:
        assert getattr(node, f"trigger_{step}")() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert node.state == "finalized"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"model": "/does/not/exist"}, "/does/not/exist"),
        ({"planner": "greedy"}, "planner must be one of"),
        ({"overrun_policy": "pray"}, "overrun_policy must be one of"),
        ({"alpha_max": 1.0}, "alpha_max"),
        ({"alpha_max": 2.0}, "alpha_max"),
        ({"fixed_alpha": 1.0, "planner": "fixed"}, "fixed_alpha"),
        ({"device": "abacus"}, "device"),
        ({"dtype": "int3"}, "dtype"),
        ({"window": 600}, "window"),
        ({"kernel": 4}, "kernel"),
        ({"eviction_method": "h2o"}, "eviction_method must be one of snapkv"),
        ({"max_context": 10_000_000}, "max_context"),
        ({"predictor": "/does/not/exist"}, "/does/not/exist"),
    ],
)
def test_a_failed_configuration_names_its_cause_and_can_be_mended(
    bench: Bench, overrides: dict, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    node = bench.node(**overrides)
    assert node.trigger_configure() == FAILURE
    assert node.state == "unconfigured"
    log = capfd.readouterr().err
    assert "configuring failed" in log
    assert named in log


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        ("create_lifecycle_publisher", "~/debug/alpha"),
        ("create_subscription", "~/input/instruction"),
    ],
)
def test_a_configuration_that_fails_at_a_topic_leaves_none_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, refused: str
) -> None:
    node = bench.node()
    create = getattr(node, method)

    def create_or_refuse(message: type, topic: str, *args: object) -> object:
        if topic == refused:
            raise RuntimeError(f"{topic} cannot be created")
        return create(message, topic, *args)

    def topics() -> list[str]:
        return sorted(entity.topic_name for entity in [*node.publishers, *node.subscriptions])

    before = topics()
    with monkeypatch.context() as broken:
        broken.setattr(node, method, create_or_refuse)
        assert node.trigger_configure() == FAILURE
    assert topics() == before
    assert node.trigger_configure() == SUCCESS
    opened = set(topics()) - set(before)
    assert {"/llm/input/instruction", "/llm/output/response", "/llm/debug/alpha"} <= opened
    assert len(topics()) == len(before) + len(opened)


def test_policy_and_planner_change_while_the_node_is_active(bench: Bench) -> None:
    node = bench.active()
    node.set_parameters([Parameter("planner", value="vanilla")])
    bench.send("a")
    bench.until(lambda: bench.terminal() == ["a"])
    assert bench.responses[0].plan.planner == "vanilla"
    [refused] = node.set_parameters([Parameter("chunk", value=64)])
    assert refused.reason == "chunk is read when the node is configured: clean up first"
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    [taken] = node.set_parameters([Parameter("chunk", value=64)])
    assert taken.successful


def test_an_ending_process_gives_up_configuring(bench: Bench) -> None:
    node = bench.node()
    node.ending.set()
    assert node.trigger_configure() == FAILURE


def test_debug_topics_carry_plain_numbers_to_plot(bench: Bench) -> None:
    bench.active()
    bench.until(lambda: bench.nodes[0].count_subscribers("/llm/debug/slack_ms") == 1)
    bench.send("a")
    bench.until(lambda: bench.terminal() == ["a"] and all(bench.debug.values()))
    assert bench.debug["alpha"] == [0.0]
    assert 0.0 < bench.debug["processing_time_ms"][0] < AMPLE * 1e3
    total = bench.debug["processing_time_ms"][0] + bench.debug["slack_ms"][0]
    assert 0.0 < total <= AMPLE * 1e3
    response = bench.responses[0]
    assert bench.debug["response_tokens"] == [response.response_tokens]
    assert bench.debug["predicted_tokens"] == [response.plan.predicted_tokens]
    predicted = nanoseconds(response.plan.predicted_time)
    assert bench.debug["predicted_time_ms"][0] == pytest.approx(predicted / 1e6, abs=1e-5)
    bench.send("never ran", prompt="")
    bench.until(lambda: len(bench.debug["slack_ms"]) == 2)
    assert len(bench.debug["processing_time_ms"]) == 1


def test_diagnostics_tell_of_missed_deadlines(bench: Bench) -> None:
    bench.active(firm_misses=0)
    bench.until(lambda: bench.said("deadlines").level == DiagnosticStatus.OK)
    bench.send("hopeless", prompt="stop " * 900, budget=0.001)
    bench.until(lambda: bench.terminal() == ["hopeless"])
    bench.until(lambda: bench.said("deadlines").level == DiagnosticStatus.ERROR)
    assert bench.said("deadlines").message == "1 of the last 10 missed, 0 may"
    assert {v.key: v.value for v in bench.said("deadlines").values}["miss ratio"] == "1.000"
    bench.nodes[0].set_parameters([Parameter("firm_misses", value=1)])
    bench.until(lambda: bench.said("deadlines").level == DiagnosticStatus.WARN)


def test_diagnostics_speak_of_every_subject_with_where_the_model_runs(bench: Bench) -> None:
    bench.active()
    bench.send("a")
    bench.until(lambda: bench.terminal() == ["a"])
    bench.until(
        lambda: "1" in {v.value for v in bench.said("prediction").values if v.key == "plans"}
    )
    names = [status.name for status in bench.diagnostics[-1].status]
    subjects = ("state", "deadlines", "queue", "prediction", "memory", "engine")
    assert names == [f"llm: {subject}" for subject in subjects]
    assert {status.hardware_id for status in bench.diagnostics[-1].status} == {"cpu"}


def test_diagnostics_tell_the_state_whatever_it_is(bench: Bench) -> None:
    node = bench.node(model="/does/not/exist")
    bench.until(lambda: bench.said("state").message.startswith("unconfigured"))
    assert node.trigger_configure() == FAILURE
    bench.until(lambda: bench.said("state").level == DiagnosticStatus.ERROR)
    assert "/does/not/exist" in bench.said("state").message
    node.set_parameters([Parameter("model", value="embedded")])
    assert node.trigger_configure() == SUCCESS
    bench.until(lambda: bench.said("state").message.startswith("inactive"))
    assert any("configuring, " in a.status[0].message for a in bench.diagnostics)
    assert node.trigger_activate() == SUCCESS
    bench.until(lambda: bench.said("state").level == DiagnosticStatus.OK)
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_cleanup() == SUCCESS
    bench.until(lambda: len(bench.diagnostics[-1].status) == 1)
    assert bench.said("state").message.startswith("unconfigured")
    assert bench.said("state").hardware_id == ""
