# SPDX-License-Identifier: Apache-2.0
"""What is decided about every job, and may be decided otherwise for the next one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import Planner, make_planner
from timebill_ros.runtime.settings import Settings


class OverrunPolicy(Enum):
    """Kill stops the late job; Skip-Next lets it end and skips the jobs behind it."""

    KILL = "kill"
    SKIP_NEXT = "skip_next"


@dataclass(frozen=True)
class Decisions:
    """How a job's eviction ratio is chosen, and what happens at its deadline."""

    planner: Planner
    policy: OverrunPolicy


def decisions(settings: Settings) -> Decisions:
    """What the settings decide.

    Raises:
        SettingError: a setting out of its bounds, by name.
    """
    planner = make_planner(
        settings.planner,
        alpha_max=settings.alpha_max,
        pessimism=settings.pessimism,
        risk=settings.risk,
        fixed_alpha=settings.fixed_alpha,
    )
    try:
        policy = OverrunPolicy(settings.overrun_policy)
    except ValueError:
        names = ", ".join(policy.value for policy in OverrunPolicy)
        raise SettingError("overrun_policy", settings.overrun_policy, f"one of {names}") from None
    return Decisions(planner, policy)
