# SPDX-License-Identifier: Apache-2.0
"""Asking a running node, and every way in which that can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from test.client.goals import StandIn
from test.client.records import ANSWERED, EXPIRED, UNPREDICTED
from timebill_ros.cli import ask
from timebill_ros.client.node_process import NodeProcess
from timebill_ros.client.session import free_domain

TIMEOUT = 120.0
# Small enough to be profiled in seconds.
PARAMETERS = {"max_context": 2048, "chunk": 128, "threads": 1, "profile_seconds": 5.0}


def run_ask(domain: int, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "timebill_ros", "ask", *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
        input=input,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    cache = str(tmp_path_factory.mktemp("profiles"))
    with NodeProcess({**PARAMETERS, "profile_cache": cache}, namespace="robot") as node:
        node.configure(TIMEOUT)
        node.activate()
        yield node


@pytest.mark.e2e
def test_an_answer_in_time_is_printed(node: NodeProcess) -> None:
    done = run_ask(node.domain, "stop", "--budget", "600", "--node", "robot/llm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "[in time], model embedded, alpha 0.00" in done.stderr


@pytest.mark.e2e
def test_an_overrun_is_told_with_its_reason(node: NodeProcess) -> None:
    arguments = ("stop", "--system", "car " * 1500, "--budget", "1e-6")
    done = run_ask(node.domain, *arguments, "--node", "/robot/llm")
    assert done.returncode == 1
    assert "expired: deadline" in done.stderr or "killed: deadline" in done.stderr


@pytest.mark.e2e
def test_a_bound_that_is_exceeded_is_named(node: NodeProcess) -> None:
    done = run_ask(node.domain, "stop", "--max-tokens", "4000", "--node", "/robot/llm")
    assert done.returncode == 1
    assert "rejected: max_tokens: 4000 exceed" in done.stderr


@pytest.mark.e2e
def test_an_absent_node_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    assert ask.main(["stop", "--wait", "0.3"]) == 1
    assert "nothing takes instructions at /llm/input/instruction" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_every_word_is_printed_once(stand_in: tuple[StandIn, int], options: list[str]) -> None:
    done = run_ask(stand_in[1], "one two three", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one two three\n"


@pytest.mark.e2e
def test_a_schema_is_read_from_its_file(stand_in: tuple[StandIn, int], tmp_path: Path) -> None:
    schema = tmp_path / "answer.schema.json"
    schema.write_text('{"type": "object"}')
    run_ask(stand_in[1], "go", "--schema", str(schema))
    assert stand_in[0].instructions[0].response_schema == '{"type": "object"}'


@pytest.mark.e2e
def test_sampling_is_sent_where_it_is_asked_for(stand_in: tuple[StandIn, int]) -> None:
    options = ["--temperature", "0.75", "--top-p", "0.875", "--seed", "3", "--stop", "END"]
    run_ask(stand_in[1], "go", *options, "--stop", "\n")
    run_ask(stand_in[1], "go", "--stop", "")
    run_ask(stand_in[1], "go")
    sent = [
        (list(each.temperature), list(each.top_p), list(each.seed), each.stop)
        for each in stand_in[0].instructions
    ]
    assert sent == [([0.75], [0.875], [3], ["END", "\n"]), ([], [], [], [""]), ([], [], [], [])]


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--temperature", "nan", "temperature: nan is not from 0 to 10"),
        ("--top-p", "0", "top_p: 0 is not above 0"),
        ("--seed", "-1", "seed: -1 is not from 0"),
        ("--stop", "x" * 257, "stop[0]: 257 characters"),
    ],
)
def test_a_sampling_that_no_node_takes_is_refused_before_it_is_sent(
    option: str, value: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        ask.main(["go", f"{option}={value}"])
    assert fault in capsys.readouterr().err


@pytest.mark.e2e
def test_a_node_whose_action_was_remapped_is_reached(stand_in: tuple[StandIn, int]) -> None:
    """The stand-in is at its own names: the command is told of others, and where they lead."""
    rules = ["-r", "/other/instruct:=/llm/instruct"]
    rules += ["-r", "/other/input/instruction:=/llm/input/instruction"]
    done = run_ask(stand_in[1], "one two", "--node", "/other", "--ros-args", *rules)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one two\n"


@pytest.mark.e2e
def test_a_conversation_is_read_from_a_file_and_the_instruction_from_standard_input(
    stand_in: tuple[StandIn, int], tmp_path: Path
) -> None:
    turns = [("system", "be brief"), ("user", "hello"), ("assistant", "hi")]
    path = tmp_path / "turns.json"
    path.write_text(json.dumps([{"role": r, "content": c} for r, c in turns]))
    done = run_ask(stand_in[1], "-", "--messages", str(path), input="go on")
    assert done.returncode == 0, done.stderr
    [instruction] = stand_in[0].instructions
    assert (instruction.system, instruction.prompt) == ("be brief", "go on")
    assert [(m.role, m.content) for m in instruction.messages] == turns[1:]


@pytest.mark.e2e
def test_an_interrupt_cancels_and_shows_what_there_was(stand_in: tuple[StandIn, int]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "timebill_ros", "ask", "so wait"],
        env={**os.environ, "ROS_DOMAIN_ID": str(stand_in[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == "so"
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert rest == " far\n"
    assert "canceled: the client canceled the goal" in said


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["a", "a b", "a b c"], "a b c\n"),
        (["", "a"], "a\n"),
        (["a b", "a"], "a b\na\n"),
        (["a b", "a", "a b c"], "a b c\n"),
        (['{"a": 1, "b', '{"a": 1}'], '{"a": 1, "b\n{"a": 1}\n'),
        (["a b", None], "a b\n"),
        (["a b", ""], "a b\n"),
        ([""], ""),
        (["go\n\tleft", "go\n\tleft\x1b[2J\x07 é"], "go\n\tleft\\x1b[2J\\x07 é\n"),
    ],
)
def test_a_growing_text_is_printed_once(
    capsys: pytest.CaptureFixture[str], shown: list[str], printed: str
) -> None:
    text = ask.GrowingText()
    *parts, answer = shown
    for part in parts:
        text.show(part)
    text.end(answer)
    assert capsys.readouterr().out == printed


def test_an_answer_that_was_cut_back_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As anytime leaves it at the deadline: what was shown goes on beyond the answer."""
    text = ask.GrowingText()
    text.show("Stop. Then turn le")
    text.end("Stop.")
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "Stop."
    assert "cut back at its end" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no instruction"),
        (["stop", "--messages", "/does/not/exist.json"], "/does/not/exist.json cannot be read"),
        (["stop", "--ros-args", "-r", "nonsense"], "--ros-args: "),
        (["stop", "--max-tokens", "many"], "not a positive number of tokens"),
        (["stop", "--schema", "/does/not/exist.json"], "/does/not/exist.json cannot be read"),
        (["stop", "--budget", "0"], "'0' is no time above 0"),
        (["stop", "--budget", "nan"], "'nan' is no time above 0"),
        (["stop", "--budget", "soon"], "'soon' is no time above 0"),
        (["stop", "--max-tokens", "-1"], "not a positive number of tokens"),
    ],
)
def test_a_bad_argument_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        ask.main(arguments)
    assert message in capsys.readouterr().err


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("prompt", "file", "turns", "expected"),
    [
        ("a", None, None, ("a", [])),
        (None, "a", None, ("a", [])),
        ("c", None, [USER, ASSISTANT], ("c", [USER, ASSISTANT])),
        (None, None, [USER, ASSISTANT, USER], ("a", [USER, ASSISTANT])),
    ],
)
def test_the_instruction_and_the_turns_before_it(
    prompt: str | None, file: str | None, turns: object, expected: object
) -> None:
    assert ask.conversation(prompt, file, turns and json.dumps(turns)) == expected


@pytest.mark.parametrize(
    ("prompt", "file", "messages", "fault"),
    [
        ("a", "a", None, "given twice"),
        (None, None, None, "there is no instruction"),
        (None, None, json.dumps([USER, ASSISTANT]), "there is no instruction"),
        ("a", None, "[", "--messages: not JSON"),
        ("a", None, "{}", "--messages: not an array"),
        ("a", None, '[{"role": "user"}]', "--messages: turn 1 is not"),
        ("a", None, '[{"role": "user", "content": 3}]', "--messages: turn 1 is not"),
    ],
)
def test_a_bad_conversation_is_named(
    prompt: str | None, file: str | None, messages: str | None, fault: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        ask.conversation(prompt, file, messages)


def test_a_system_message_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "scene.txt").write_text("o1 s2 car ;")
    assert ask.text_or_file(str(tmp_path / "scene.txt")) == "o1 s2 car ;"
    for text in ("", "o1 s2 car ;", str(tmp_path), "a" * 10_000, "with \0 in it"):
        assert ask.text_or_file(text) == text


def test_the_account_has_what_there_is() -> None:
    assert ask.account(ANSWERED) == (
        "[in time], alpha 0.42, prompt 3005 tokens, response 97 tokens (predicted 96, planned for "
        "400), time 0.353 s (predicted 0.371, worst case 0.512), queued 0.020 s, prefill 0.210 s, "
        "predict 0.004 s, evict 0.003 s, decode 0.140 s, slack +0.135 s"
    )
    assert "(no prediction, planned for 400)" in ask.account(UNPREDICTED)
    assert ANSWERED.plan is not None
    risky = replace(ANSWERED, plan=replace(ANSWERED.plan, planned_tokens=112, risk=0.05))
    told = "(predicted 96, planned for 112, 5.0% of answers are longer)"
    assert told in ask.account(risky)
    assert UNPREDICTED.plan is not None
    longest = replace(UNPREDICTED, plan=replace(UNPREDICTED.plan, risk=0.0))
    told = "(no prediction, planned for 400, the most that it may have)"
    assert told in ask.account(longest)
    beyond = replace(ANSWERED, plan=replace(ANSWERED.plan, feasible=False, wcet=21.6))
    told = "worst case 21.600, more than the budget left: no plan could promise it)"
    assert told in ask.account(beyond)
    assert ask.account(replace(ANSWERED, truncated=True)).startswith("[in time, truncated], ")
    scored = replace(ANSWERED, plan=replace(ANSWERED.plan, score=97.6))
    assert "alpha 0.42 (where answers score 98 of 100)," in ask.account(scored)
    weighed = replace(ANSWERED, plan=replace(ANSWERED.plan, rho=0.25, expected_score=91.2))
    assert "alpha 0.42 (expected score 91), prompt 3005 tokens (selected, 25% of it)" in (
        ask.account(weighed)
    )
    shared = replace(ANSWERED, plan=replace(ANSWERED.plan, reused_tokens=2880))
    assert "prompt 3005 tokens (2880 reused)," in ask.account(shared)
    named = replace(ANSWERED, plan=replace(ANSWERED.plan, model="small\x1b[2J"))
    assert "[in time], model small" in ask.account(named)
    put_off = replace(ANSWERED, plan=replace(ANSWERED.plan, evicted_at=17))
    assert "alpha 0.42 from token 17, prompt" in ask.account(put_off)
    assert "\x1b" not in ask.account(named)
    assert ask.account(EXPIRED) == "[expired], queued 0.530 s, slack -0.018 s"
