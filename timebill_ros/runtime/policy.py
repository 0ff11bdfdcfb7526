# SPDX-License-Identifier: Apache-2.0
"""What is decided about every job, and may be decided otherwise for the next one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import Planner, make_planner
from timebill_ros.runtime.settings import Settings


class OverrunPolicy(Enum):
    """What happens at the deadline of a job that has not ended.

    Kill stops it. Skip-Next lets it end and skips the jobs behind it. Anytime answers shortly
    before with what can stand for itself of the response so far; without any it is killed.
    """

    KILL = "kill"
    SKIP_NEXT = "skip_next"
    ANYTIME = "anytime"


@dataclass(frozen=True)
class Decisions:
    """How a job's eviction ratio is chosen, and what happens at its deadline.

    Attributes:
        planner, policy: as their names say.
        anytime_margin: time that Anytime keeps for closing and publishing an answer, s.
        time_risk: accepted share of requests that are slower than their worst case.
    """

    planner: Planner
    policy: OverrunPolicy
    anytime_margin: float = 0.0
    time_risk: float = 0.0

    @property
    def margin(self) -> float:
        """How long before its deadline a job is to end, s."""
        return self.anytime_margin if self.policy is OverrunPolicy.ANYTIME else 0.0


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
    if not 0.0 <= settings.time_risk < 1.0:
        raise SettingError("time_risk", settings.time_risk, "in [0, 1)")
    try:
        policy = OverrunPolicy(settings.overrun_policy)
    except ValueError:
        names = ", ".join(policy.value for policy in OverrunPolicy)
        raise SettingError("overrun_policy", settings.overrun_policy, f"one of {names}") from None
    return Decisions(planner, policy, settings.anytime_margin, settings.time_risk)
