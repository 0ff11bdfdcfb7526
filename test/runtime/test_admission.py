# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from timebill_ros.engine.conversation import Conversation, Turn
from timebill_ros.runtime.admission import Instruction, Limits, Refused, admit
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.job import Job
from timebill_ros.runtime.outcome import Reason

LIMITS = Limits(default_budget=2.0, max_budget=600.0, max_prompt_chars=100)
NOW_ROS = 1_700_000_000 * NS_PER_S
NOW_CLOCK = 5 * NS_PER_S


TALK = Conversation("a scene", "stop")


def instruction(**changes: object) -> Instruction:
    fields: dict = {
        "id": "a",
        "conversation": TALK,
        "stamp_ns": NOW_ROS - NS_PER_S // 10,
        "budget_ns": NS_PER_S,
        "deadline_ns": 0,
        "max_tokens": 0,
        "response_schema": "{}",
    }
    return Instruction(**{**fields, **changes})


def asking(system: str, prompt: str, *turns: tuple[str, str]) -> dict:
    """The fields of an instruction with this conversation."""
    return {"conversation": Conversation(system, prompt, tuple(Turn(*turn) for turn in turns))}


def admitted(**changes: object) -> Job:
    return admit(instruction(**changes), received_ns=NOW_ROS, clock_ns=NOW_CLOCK, limits=LIMITS)


def test_release_and_deadline_become_instants_of_the_server_s_clock() -> None:
    job = admitted()
    assert job.release_ns == NOW_CLOCK - NS_PER_S // 10
    assert job.deadline_ns == job.release_ns + NS_PER_S


def test_zero_stamp_means_the_moment_of_reception() -> None:
    job = admitted(stamp_ns=0)
    assert (job.release_ns, job.deadline_ns) == (NOW_CLOCK, NOW_CLOCK + NS_PER_S)


def test_zero_budget_means_the_default() -> None:
    assert admitted(stamp_ns=0, budget_ns=0).deadline_ns == NOW_CLOCK + 2 * NS_PER_S


def test_an_absolute_deadline_wins_over_the_budget() -> None:
    job = admitted(deadline_ns=NOW_ROS + 3 * NS_PER_S, budget_ns=-1)
    assert job.deadline_ns == NOW_CLOCK + 3 * NS_PER_S


def test_a_deadline_in_the_past_is_left_to_the_server_to_announce() -> None:
    assert admitted(deadline_ns=NOW_ROS - 1).deadline_ns == NOW_CLOCK - 1


def test_zero_max_tokens_means_the_default() -> None:
    assert admitted().max_tokens is None
    assert admitted(max_tokens=7).max_tokens == 7


def test_the_conversation_is_taken_over_with_its_earlier_turns() -> None:
    talk = asking("be brief", "and now ?", ("user", "go"), ("assistant", "gone"))
    assert admitted(**talk).conversation == talk["conversation"]


def test_the_context_is_handed_through() -> None:
    token = object()
    assert admitted(context=token).context is token


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        (asking("", ""), "prompt: it is empty"),
        (asking("", " \n\t"), "prompt: it is empty"),
        (asking("", "st\ufffdp"), "prompt: character 2 is U\\+FFFD"),
        (asking("\ufffd", "stop"), "system: character 0"),
        ({"id": "a\ufffd"}, "id: character 1"),
        (asking("x" * 98, "xyz"), "prompt: 101 characters, .* are more than the 100"),
        (asking("x" * 90, "xyz", ("user", "x" * 8)), "prompt: 101 characters, "),
        (
            asking("", "stop", ("user", "go"), ("tool", "gone")),
            r"messages\[1\].role: 'tool' is none of user, assistant",
        ),
        (asking("", "stop", ("system", "go")), r"messages\[0\].role: 'system'"),
        (asking("", "stop", ("assistant", " ")), r"messages\[0\].content: it is empty"),
        (asking("", "stop", ("user", "g\ufffd")), r"messages\[0\].content: character 1"),
        ({"budget_ns": -NS_PER_S}, "budget: -1.000 s is negative"),
        ({"budget_ns": 10**9 * NS_PER_S}, "budget: .* exceed the max_budget of 600.000 s"),
        ({"deadline_ns": NOW_ROS + 700 * NS_PER_S}, "deadline: 700.000 s from now exceed"),
        ({"stamp_ns": NOW_ROS + 10**6 * NS_PER_S}, "budget: .* exceed"),
    ],
)
def test_a_refusal_names_the_field_and_the_bound(changes: dict, detail: str) -> None:
    with pytest.raises(Refused, match=f"^{detail}") as refused:
        admitted(**changes)
    assert refused.value.reason is Reason.REJECTED
    assert refused.value.job.id == instruction(**changes).id


def test_a_clock_that_has_not_started_is_named() -> None:
    with pytest.raises(Refused, match=r"^stamp: .*no /clock has come yet"):
        admit(instruction(), received_ns=0, clock_ns=0, limits=LIMITS)
