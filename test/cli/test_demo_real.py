# SPDX-License-Identifier: Apache-2.0
"""Budgets from a profile, the demo's own judgement, and the whole demo of a real model."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from test.client.records import ANSWERED, EXPIRED
from timebill_ros.budget.plan import Situation
from timebill_ros.budget.planners import TimeBillPlanner
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.cli import demo_real
from timebill_ros.cli.deadline_run import RunFailed
from timebill_ros.cli.real_instructions import INSTRUCTIONS, TOGETHER, BudgetRule
from timebill_ros.client.record import Ending

# SmolLM2-135M on two cores, and a machine a hundred times as fast.
CORES = TimeModel(a=1e-7, b=1.2e-3, c=2e-2, p=6e-6, q=3e-2, evict_rate=2e-5, evict_base=1e-3)
FAST = TimeModel(**{name: value / 100 for name, value in vars(CORES).items() if value})
N_X, N_MAX = 2000, 64
WHOLE = replace(ANSWERED, id="u01")
MODELS = pytest.mark.parametrize("model", [CORES, FAST], ids=["cores", "fast"])


def plan_alpha(budget: BudgetRule, model: TimeModel) -> tuple[float, bool]:
    """What the planner makes of the budget once the prefill has taken as long as predicted."""
    prefill = model.prefill(N_X)
    left = budget.seconds(model, N_X, N_MAX) - prefill
    situation = Situation(N_X, N_MAX, None, window=64, spent=prefill, remaining=left)
    plan = TimeBillPlanner().plan(situation, model)
    return plan.alpha, plan.feasible


@MODELS
def test_budgets_mean_on_every_machine_what_they_say(model: TimeModel) -> None:
    assert plan_alpha(BudgetRule.UNHURRIED, model) == (0.0, True)
    assert plan_alpha(BudgetRule.COMFORTABLE, model) == (0.0, True)
    assert plan_alpha(BudgetRule.TIGHT, model) == (pytest.approx(0.5, abs=0.01), True)
    assert not plan_alpha(BudgetRule.SHORT, model)[1]
    assert BudgetRule.HOPELESS.seconds(model, N_X, N_MAX) == pytest.approx(model.prefill(N_X) / 2)


def test_the_instructions_are_a_dozen_short_and_long_of_every_kind() -> None:
    assert len(INSTRUCTIONS) >= 12
    assert Counter(one.budget for one in INSTRUCTIONS).keys() == set(BudgetRule)
    assert len({one.text for one in INSTRUCTIONS}) == len(INSTRUCTIONS)
    lengths = sorted(len(one.text.split()) for one in INSTRUCTIONS)
    assert lengths[0] < 15
    assert lengths[-1] > 900
    assert 1 < TOGETHER < len(INSTRUCTIONS)


def test_the_table_says_which_share_a_budget_is() -> None:
    one = demo_real.prepare(7, replace(INSTRUCTIONS[0], budget=BudgetRule.SHORT), N_X, CORES)
    assert one.id == "s07"
    *_, row = demo_real.budget_table([one], CORES)
    prefill = CORES.prefill(N_X)
    worst = prefill + CORES.decode(N_X, INSTRUCTIONS[0].max_tokens)
    assert row.split()[:6] == [
        *("s07", "2000", "32"),
        *(f"{seconds:.3f}" for seconds in (prefill, worst, one.budget)),
    ]
    assert row.endswith("prefill + 0.4 decode")


@pytest.mark.parametrize("records", [[WHOLE], [WHOLE, EXPIRED, replace(EXPIRED, id="c02")]])
def test_a_run_in_which_deadlines_were_missed_is_good(records: list) -> None:
    demo_real.check(records)


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([EXPIRED], "the unhurried instruction was not answered"),
        ([replace(WHOLE, ending=Ending.KILLED)], "the unhurried instruction was not answered"),
        (
            [WHOLE, replace(EXPIRED, id="c02", ending=Ending.FAILED, detail="out of memory")],
            "c02 was failed: out of memory",
        ),
        (
            [WHOLE, replace(EXPIRED, id="c02", ending=Ending.REJECTED, detail="max_context")],
            "c02 was rejected: max_context",
        ),
    ],
)
def test_what_no_deadline_explains_fails_the_run(records: list, fault: str) -> None:
    with pytest.raises(RunFailed, match=re.escape(fault)):
        demo_real.check(records)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--preset", "none-such"], "no preset 'none-such'; there are embedded, "),
        (["--model", "/no/such/model"], "no such directory"),
    ],
)
def test_what_cannot_be_run_is_named(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_real.main([*arguments, "--out", str(tmp_path)]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_model_answers_over_dds_and_leaves_its_files(smollm2: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "timebill_ros", "demo-real"]
    done = subprocess.run(
        [*command, "--model", str(smollm2), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1800.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "real.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(INSTRUCTIONS)
    assert all(done.stdout.count(f"\n{row['id']} ") >= 2 for row in rows)
    answers = {row["id"]: row["text"] for row in rows if row["outcome"] == "in time"}
    assert "Paris" in answers["u01"]
    assert "Tokyo" in answers["u13"]
    assert max(int(row["prompt_tokens"]) for row in rows) > 1500
    assert (tmp_path / "real.png").stat().st_size > 0
