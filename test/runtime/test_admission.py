# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import pytest

from timebill_ros.engine.request import Conversation, SamplingOverride, Turn
from timebill_ros.runtime.admission import Limits, Reception, fault_of
from timebill_ros.runtime.clock import NS_PER_S
from timebill_ros.runtime.job import Job

LIMITS = Limits(default_budget=2.0, max_budget=600.0, max_prompt_chars=100)
RECEIVED = Reception(stamps_ns=1_700_000_000 * NS_PER_S, clock_ns=5 * NS_PER_S)
NOW = RECEIVED.clock_ns
JOB = Job("a", Conversation("a scene", "stop"), NOW, NOW + NS_PER_S, response_schema="{}")


def asking(system: str, prompt: str, *turns: tuple[str, str]) -> dict:
    """The fields of a job with this conversation."""
    return {"conversation": Conversation(system, prompt, tuple(Turn(*turn) for turn in turns))}


def sampled(**values: object) -> dict:
    """The fields of a job that sets this of its sampling."""
    return {"sampling": SamplingOverride(**values)}  # type: ignore[arg-type]


def fault(**changes: object) -> str | None:
    return fault_of(replace(JOB, **changes), RECEIVED, LIMITS)


def test_instants_of_a_stamp_s_clock_become_the_server_s() -> None:
    assert RECEIVED.on_clock(RECEIVED.stamps_ns - 7) == NOW - 7


def test_what_is_within_its_bounds_has_no_fault() -> None:
    assert fault() is None
    assert fault(**asking("be brief", "and now ?", ("user", "go"), ("assistant", "gone"))) is None
    ends = sampled(temperature=0.0, top_p=1.0, seed=0, stop=())
    assert fault(**ends) is None
    assert fault(**sampled(temperature=10.0, seed=2**31 - 1, stop=("y" * 256,) * 16)) is None


@pytest.mark.parametrize("field", ["budget", "deadline"])
def test_a_deadline_in_the_past_is_left_to_the_server_to_announce(field: str) -> None:
    past = {"release_ns": NOW - 9, "deadline_ns": NOW - 1, "deadline_field": field}
    assert fault(**past) is None


def test_an_absolute_deadline_before_the_release_has_passed_and_is_no_fault() -> None:
    assert fault(deadline_ns=NOW - 1, deadline_field="deadline") is None


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
        (sampled(temperature=-0.5), "temperature: -0.5 is not from 0 to 10"),
        (sampled(temperature=10.5), "temperature: 10.5 is not from 0 to 10"),
        (sampled(temperature=float("nan")), "temperature: nan is not from 0 to 10"),
        (sampled(top_p=0.0), "top_p: 0 is not above 0 and at most 1"),
        (sampled(top_p=1.5), "top_p: 1.5 is not above 0 and at most 1"),
        (sampled(top_p=float("nan")), "top_p: nan is not"),
        (sampled(seed=2**31), "seed: 2147483648 is not from 0 to 2147483647"),
        (sampled(stop=("x",) * 17), "stop: 17 strings are more than the 16"),
        (sampled(stop=("x", "y" * 257)), r"stop\[1\]: 257 characters are not from 1 to 256"),
        (sampled(stop=("x", "")), r"stop\[1\]: 0 characters"),
        (sampled(stop=("a\ufffd",)), r"stop\[0\]: character 1 is U\+FFFD"),
        ({"deadline_ns": NOW - NS_PER_S}, "budget: -1.000 s is negative"),
        ({"deadline_ns": 10**9 * NS_PER_S}, "budget: .* exceed the max_budget of 600.000 s"),
        (
            {"deadline_ns": NOW + 700 * NS_PER_S, "deadline_field": "deadline"},
            "deadline: 700.000 s from now exceed",
        ),
    ],
)
def test_a_refusal_names_the_field_and_the_bound(changes: dict, detail: str) -> None:
    assert re.match(detail, fault(**changes) or "no fault")


def test_a_clock_that_has_not_started_is_named() -> None:
    started = fault_of(JOB, Reception(stamps_ns=0, clock_ns=0), LIMITS)
    assert re.match("stamp: .*no /clock has come yet", started or "no fault")
