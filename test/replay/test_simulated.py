# SPDX-License-Identifier: Apache-2.0
"""Replays in virtual time: exact, reproducible, through the node's own admission and server."""

from __future__ import annotations

from pathlib import Path

import pytest

from test.replay.recordings import FLAT, START_NS, answer, of_simulation, recorded, write
from timebill_ros.budget.quality import QualityCurve, QualityFile, QualityPoint, write_quality
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.cli.replay import main
from timebill_ros.msg import ChatMessage, Overrun, Response
from timebill_ros.node.conversions import REASONS, time_msg
from timebill_ros.replay.bag import Bag
from timebill_ros.replay.recording import BadInput, Lengths, Recorded, Tempo
from timebill_ros.replay.simulated import assumed, replay_simulated
from timebill_ros.replay.trace import read_lengths
from timebill_ros.runtime.clock import seconds
from timebill_ros.runtime.settings import Settings

# Prefill 1 ms per 100 tokens, a step 1 ms: 1,000 tokens answered with 11 take 20 ms.
MODEL = TimeModel(a=0.0, b=1e-5, c=0.0, p=0.0, q=1e-3)

AS_RECORDED = Tempo()
NAMES = {number: reason.value for reason, number in REASONS.items()}


def ended(
    items: list[Recorded],
    tempo: Tempo = AS_RECORDED,
    **settings: object,
) -> list[tuple[str, str, float]]:
    """(id, how it ended, s since the first was recorded) in order of the endings."""
    kept: list[tuple[int, object]] = []
    outcomes = replay_simulated(
        items,
        Settings(**settings),  # type: ignore[arg-type]
        MODEL,
        tempo,
        keep=lambda at_ns, message: kept.append((at_ns, message)),
    )
    assert outcomes.faults == []
    assert [record.id for record in outcomes.records] == [item.instruction.id for item in items]
    return [
        (m.id, NAMES[m.reason] if isinstance(m, Overrun) else "answered", since_start(at_ns))
        for at_ns, m in kept
        if isinstance(m, Overrun | Response)
    ]


def since_start(at_ns: int) -> float:
    return round(seconds(at_ns - START_NS), 6)


def test_instructions_come_when_they_were_recorded() -> None:
    items = [recorded("a", 0.0), recorded("b", 0.5)]
    assert ended(items) == [("a", "answered", 0.02), ("b", "answered", 0.52)]


def test_at_another_rate_they_come_faster_with_the_budgets_that_they_had() -> None:
    items = [recorded("a", 0.0, budget=0.03), recorded("b", 0.5, budget=0.03)]
    assert ended(items, Tempo(rate=10.0)) == [("a", "answered", 0.02), ("b", "answered", 0.07)]
    deadline = [recorded("a", 0.5, deadline=time_msg(START_NS + 515_000_000))]
    assert ended([recorded("first", 0.0), *deadline], Tempo(rate=10.0))[1] == ("a", "killed", 0.065)


def test_with_their_clock_their_budgets_pass_faster_too() -> None:
    items = [recorded("a", 0.0, budget=0.3), recorded("b", 0.5, budget=0.15)]
    assert ended(items, Tempo(rate=10.0, simulated=True)) == [
        ("a", "answered", 0.2),
        ("b", "killed", 0.65),
    ]


def test_what_the_node_refuses_is_refused() -> None:
    items = [
        recorded("empty", 0.0, prompt=" ", lengths=None),
        recorded("overdue", 0.1, deadline=time_msg(START_NS)),
        recorded("turns", 0.2, messages=[ChatMessage(role="judge", content="x")]),
        recorded("long", 0.3, lengths=Lengths(5000, 11)),
        recorded("same prompt", 0.4, prompt="x", lengths=Lengths(1000, 21)),
        recorded("same prompt, shorter", 0.5, prompt="x"),
    ]
    assert ended(items, max_context=4096) == [
        ("empty", "rejected", 0.0),
        ("overdue", "expired", 0.1),
        ("turns", "rejected", 0.2),
        ("long", "rejected", 0.3),
        ("same prompt", "answered", 0.43),
        ("same prompt, shorter", "answered", 0.52),
    ]


def test_the_settings_are_the_node_s() -> None:
    items = [recorded("a", 0.0, budget=0.015), recorded("b", 0.001)]
    assert ended(items) == [("a", "killed", 0.015), ("b", "answered", 0.035)]
    assert ended(items, overrun_policy="skip_next") == [
        ("a", "late", 0.015),
        ("b", "skipped", 0.015),
        ("a", "answered", 0.02),
    ]


def test_answers_that_the_deadline_cuts_short_count_apart(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0, budget=0.025)], [answer("a", response=40)])
    arguments = ["--simulate", "--time-model", str(model), "-p", "overrun_policy:=anytime"]
    expected = ["--expect", "truncated==1", "--expect", "completion==1"]
    assert main([str(bag), *arguments, *expected, "--out", str(tmp_path / "out")]) == 0
    assert "of them cut short 1" in capsys.readouterr().out
    known = read_lengths(tmp_path / "out" / "replay.csv")["a"]
    assert known == Bag(tmp_path / "out" / "bag").recorded[0].lengths
    assert known.response_tokens == 16


def test_unknown_lengths_are_named_or_assumed() -> None:
    items = [recorded(name, 0.0, lengths=None) for name in "abcdefg"]
    with pytest.raises(BadInput, match="of 7 of 7 instructions are not known: a, b, c, d, e and 2"):
        ended(items)
    known = assumed([*items, recorded("h", 0.0)], Lengths(5, 6))
    assert [item.lengths for item in known] == [Lengths(5, 6)] * 7 + [Lengths(1000, 11)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    path.write_text(FLAT)
    return path


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, model: Path) -> None:
    items = [recorded(f"i{n}", 0.013 * n, budget=0.04 + 0.001 * (n % 7)) for n in range(300)]
    outcomes = [answer(f"i{n}", 200 + 37 * (n % 50), 1 + n % 40, 48) for n in range(300)]
    bag = write(tmp_path / "in", items, outcomes)
    tables = []
    for run in ("first", "second"):
        out = tmp_path / run
        arguments = [str(bag), "--simulate", "--time-model", str(model), "--out", str(out)]
        assert main([*arguments, "--clock", "--rate", "1.7"]) == 0
        tables.append([(out / name).read_bytes() for name in ("replay.csv", "figures.csv")])
    assert tables[0] == tables[1]
    assert len(tables[0][0].splitlines()) == 301
    kept = Bag(tmp_path / "first" / "bag").recorded
    assert [item.instruction for item in kept] == [item.instruction for item in items]


@pytest.mark.parametrize("clock", [[], ["--clock"]])
def test_a_simulation_s_bag_is_replayed_by_its_stamps(
    tmp_path: Path, model: Path, clock: list[str]
) -> None:
    items = [of_simulation("a", 0.0), of_simulation("b", 0.5)]
    bag = write(tmp_path / "in", items, [answer("a"), answer("b")])
    arguments = [str(bag), "--simulate", "--time-model", str(model), *clock]
    assert main([*arguments, "--expect", "expired==2"]) == 0
    assert main([*arguments, "--by-stamp", "--expect", "completion==1"]) == 0


def test_a_replay_s_own_outputs_give_the_lengths_of_the_next(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0), recorded("b", 0.1)])
    simulate = ["--simulate", "--time-model", str(model)]
    first = [str(bag), *simulate, "--assume-lengths", "700", "9", "--out", str(tmp_path / "out")]
    assert main(first) == 0
    table = capsys.readouterr().out.partition("written")[0]
    for source in ("bag", "replay.csv"):
        lengths = str(tmp_path / "out" / source)
        assert main([str(bag), *simulate, "--lengths", lengths]) == 0
        assert capsys.readouterr().out == table
    assert main([str(tmp_path / "out" / "bag"), *simulate]) == 0
    assert capsys.readouterr().out == table


def test_expectations_decide_the_exit_status(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    rows = "\n".join(f"{0.05 * n},1000,{11 + n % 3}" for n in range(1000))
    trace.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}\n")
    arguments = [str(trace), "--simulate", "--time-model", str(model), "--budget", "0.0215"]
    assert main([*arguments, "--expect", "completion>=0.6", "--expect", "missing==0"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--expect", "completion>0.9", "--expect", "latency_p99<=0.01"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "replay: expected completion > 0.9: it is 0.667",
        "replay: expected latency_p99 <= 0.01: it is 0.021",
    ]


def test_a_replay_that_cannot_begin_leaves_no_bag(tmp_path: Path, model: Path) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0)])
    out = ["--out", str(tmp_path / "out")]
    assert main([str(bag), "--simulate", "--time-model", str(model), *out]) == 2
    assert not (tmp_path / "out" / "bag").exists()


def test_nothing_is_overwritten(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "in", [recorded("a", 0.0)], [answer("a")])
    arguments = [str(bag), "--simulate", "--time-model", str(model), "--out", str(tmp_path / "o")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "bag: exists already" in capsys.readouterr().err


def test_a_quality_file_lets_plans_select_and_evict(tmp_path: Path) -> None:
    flat = QualityCurve((QualityPoint(0.0, 90.0, 0.0, 0.0), QualityPoint(1.0, 80.0, 0.0, 0.0)))
    file = tmp_path / "quality.json"
    write_quality(file, QualityFile({"snapkv": flat}, {"recent": flat}))
    # 20,000 tokens take 0.2 s to prefill, the budget of 0.1 s a half of them at most.
    items = [recorded("a", 0.0, budget=0.1, lengths=Lengths(20_000, 11))]
    levers = {"planner": "expected", "max_tokens": 20}
    (whole,) = ended(items, **levers)
    (selected,) = ended(items, **levers, quality_file=str(file))
    assert whole[1] == "expired"
    assert selected[1] == "answered"
    assert selected[2] <= 0.1


def test_a_file_without_curves_is_named(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    file.write_text("[]")
    with pytest.raises(BadInput, match=r"quality\.json holds no quality curves"):
        ended([recorded("a", 0.0)], quality_file=str(file))
