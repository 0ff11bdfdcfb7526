# SPDX-License-Identifier: Apache-2.0
"""Replays into a stand-in for the node, over real DDS: tempo, clocks, and every way it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from test.replay.recordings import START_NS, of_simulation, recorded, write
from test.replay.stand_in import StandIn
from timebill_ros.cli.replay import main
from timebill_ros.client.record import Ending
from timebill_ros.client.session import free_domain
from timebill_ros.msg import Instruction
from timebill_ros.node.conversions import nanoseconds, time_msg
from timebill_ros.replay.bag import Bag
from timebill_ros.replay.live import LiveReplay, RecordedTime
from timebill_ros.replay.recording import Outcomes, Recorded, Tempo
from timebill_ros.runtime.clock import NS_PER_S, seconds

pytestmark = pytest.mark.e2e

PATIENCE = 60.0  # s, for what comes
# s, after which something counts as not coming: all else has come by then, on a busy machine too.
SHORT_PATIENCE = 3.0


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    domain = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    return domain


def play(domain: int, items: list[Recorded], tempo: Tempo, patience: float = PATIENCE) -> Outcomes:
    replay = LiveReplay("/llm", domain, tempo, keep=None, heartbeat=lambda: None)
    return replay.run(items, wait=PATIENCE, patience=patience)


def wall_time() -> float:
    """What the stand-in's clock shows, s."""
    return seconds(Clock(clock_type=ClockType.SYSTEM_TIME).now().nanoseconds)


def assert_released_now(node: StandIn, begun: float) -> None:
    """The stamps of what it received lie between the begin of the test and their arrival."""
    for at, message in node.received:
        assert begun <= seconds(nanoseconds(message.header.stamp)) <= at


def test_recorded_time_passes_at_its_rate() -> None:
    now_ns = NS_PER_S
    time = RecordedTime([recorded("a", 0.0)], 2.0, lambda: now_ns)
    lead = time.until(START_NS)
    assert lead > 0.0
    now_ns += round(lead * NS_PER_S)
    assert time.now_ns() == START_NS
    assert time.until(START_NS + NS_PER_S) == 0.5
    now_ns += NS_PER_S
    assert time.now_ns() == START_NS + 2 * NS_PER_S
    assert time.until(START_NS) == -1.0


def test_on_the_wall_clock_stamps_and_deadlines_move_to_now(domain: int) -> None:
    deadline = time_msg(START_NS + 7 * NS_PER_S)
    items = [
        recorded("a", 0.0),
        recorded("b", 0.4, deadline=deadline),
        recorded("c", 0.8, header=Instruction().header),
    ]
    begun = wall_time()
    with StandIn(domain) as node:
        outcomes = play(domain, items, Tempo(rate=2.0))
    assert outcomes.faults == []
    assert [record.ending for record in outcomes.records] == [Ending.IN_TIME] * 3
    (_, a), (_, b), (_, c) = node.received
    assert_released_now(node, begun)
    assert nanoseconds(b.deadline) - nanoseconds(b.header.stamp) == round(6.6 * NS_PER_S)
    assert (nanoseconds(a.budget), nanoseconds(a.deadline), nanoseconds(c.deadline)) == (
        NS_PER_S,
        0,
        0,
    )


def test_with_a_clock_instructions_are_sent_as_they_were(domain: int) -> None:
    items = [recorded("a", 0.0), recorded("b", 1.0)]
    with StandIn(domain, use_sim_time=True) as node:
        outcomes = play(domain, items, Tempo(rate=4.0, simulated=True))
    assert [record.ending for record in outcomes.records] == [Ending.IN_TIME] * 2
    assert [message for _, message in node.received] == [item.instruction for item in items]
    # The clock that the node sees has come to the recorded instant, but for some ticks.
    for (at, _), item in zip(node.received, items, strict=True):
        assert at > seconds(item.at_ns) - 0.4


def test_outcomes_that_are_missing_or_doubled_are_faults(domain: int) -> None:
    prompts = ["twice", "silence", "kill", "stop"]
    items = [recorded(prompt, 0.01 * n, budget=0.1) for n, prompt in enumerate(prompts)]
    with StandIn(domain):
        outcomes = play(domain, items, Tempo(), SHORT_PATIENCE)
    assert list(outcomes.faults) == [
        "twice: 2 terminal messages came",
        "silence: no terminal message came",
    ]
    endings = {record.id: record.ending for record in outcomes.records}
    assert endings["silence"] is Ending.MISSING
    assert endings["kill"] is Ending.KILLED


def test_what_the_heartbeat_finds_ends_the_replay(domain: int) -> None:
    def heartbeat() -> None:
        raise RuntimeError("it died")

    replay = LiveReplay("/llm", domain, Tempo(), None, heartbeat)
    with StandIn(domain), pytest.raises(RuntimeError, match="it died"):
        replay.run([recorded("a", 0.0, prompt="silence")], wait=PATIENCE, patience=PATIENCE)


def run(path: Path, *arguments: str) -> int:
    return main([str(path), "--wait", f"{PATIENCE}", "--patience", f"{PATIENCE}", *arguments])


def test_everything_is_kept_in_a_new_bag(domain: int, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [recorded("a", 0.0), recorded("b", 0.1, prompt="kill")])
    with StandIn(domain):
        assert run(path, "--out", str(tmp_path / "out")) == 0
    kept = Bag(tmp_path / "out" / "bag")
    assert [item.instruction.id for item in kept.recorded] == ["a", "b"]
    assert kept.recorded[0].at_ns > START_NS + 3600 * NS_PER_S
    assert kept.recorded[0].lengths is not None
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "bag",
        "figures.csv",
        "replay.csv",
        "replay.png",
    }


def test_by_their_stamps_a_simulation_s_instructions_move_to_now(
    domain: int, tmp_path: Path
) -> None:
    bag = write(tmp_path / "in", [of_simulation("a", 0.0), of_simulation("b", 0.3)])
    begun = wall_time()
    with StandIn(domain) as node:
        assert run(bag, "--by-stamp", "--expect", "completion==1") == 0
    assert_released_now(node, begun)


def test_an_absent_node_is_said_to_be(
    domain: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in", [recorded("a", 0.0)])
    assert main([str(path), "--wait", "0.3"]) == 1
    assert "nothing takes instructions at /llm/input/instruction" in capsys.readouterr().err
    assert main([str(path), "--wait", "0.3", "--clock"]) == 1
    assert "nothing listens to /clock after 0.3 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("silence", "fault: a: no terminal message came"),
        ("leave", "the node /llm left its topics in the middle of the replay"),
    ],
)
def test_a_node_that_does_not_answer_ends_the_replay(
    domain: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str, told: str
) -> None:
    patience = PATIENCE if prompt == "leave" else SHORT_PATIENCE
    path = write(tmp_path / "in", [recorded("a", 0.0, prompt=prompt, budget=0.1)])
    with StandIn(domain):
        assert run(path, "--patience", f"{patience}") == 1
    assert told in capsys.readouterr().err
