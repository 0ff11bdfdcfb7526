# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import FixedPlanner, TimeBillPlanner, VanillaPlanner
from timebill_ros.runtime.policy import Decisions, OverrunPolicy, decisions
from timebill_ros.runtime.settings import Settings


def test_every_setting_arrives_where_it_decides() -> None:
    decided = decisions(
        Settings(
            planner="timebill",
            alpha_max=0.7,
            pessimism=3.0,
            risk=0.2,
            overrun_policy="anytime",
            anytime_margin=0.04,
            time_risk=0.3,
        )
    )
    assert decided == Decisions(
        TimeBillPlanner(alpha_max=0.7, pessimism=3.0, risk=0.2), OverrunPolicy.ANYTIME, 0.04, 0.3
    )
    fixed = decisions(Settings(planner="fixed", fixed_alpha=0.6, pessimism=3.0, risk=0.2)).planner
    assert fixed == FixedPlanner(alpha=0.6, pessimism=3.0, risk=0.2)
    vanilla = decisions(Settings(planner="vanilla", pessimism=3.0, risk=0.2)).planner
    assert vanilla == VanillaPlanner(pessimism=3.0, risk=0.2)


@pytest.mark.parametrize(("policy", "margin"), [("kill", 0.0), ("skip_next", 0.0), ("anytime", 2)])
def test_only_anytime_keeps_time_for_an_answer(policy: str, margin: float) -> None:
    decided = decisions(Settings(overrun_policy=policy, anytime_margin=2.0))
    assert decided.policy.value == policy
    assert decided.margin == margin


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_risk": 1.0}, r"^time_risk must be in \[0, 1\), not 1.0"),
        ({"time_risk": -1e-9}, "^time_risk"),
        ({"time_risk": math.nan}, "^time_risk"),
        (
            {"overrun_policy": "Kill"},
            "^overrun_policy must be one of kill, skip_next, anytime, not 'Kill'",
        ),
        ({"planner": "greedy"}, "^planner must be"),
        ({"risk": 1.0}, "^risk must be"),
    ],
)
def test_a_setting_out_of_its_bounds_is_named(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        decisions(Settings(**settings))


def test_no_risk_is_a_choice() -> None:
    assert decisions(Settings(time_risk=0.0)).time_risk == 0.0
