# SPDX-License-Identifier: Apache-2.0
"""How jobs are planned and what their deadlines mean: may change from one job to the next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.planners import Planner, make_planner
from timebill_ros.runtime.settings import Settings

REJECT = "reject"
ADMISSIONS = ("best_effort", REJECT)


class OverrunPolicy(Enum):
    """What happens to a running job whose deadline comes before its response is complete.

    Kill stops the job at its deadline. Skip-Next lets it run to its end, and skips the jobs that
    wait behind it. Anytime ends it shortly before its deadline, and answers with the part of the
    response that makes sense alone; where there is no such part, the job is killed.
    """

    KILL = "kill"
    SKIP_NEXT = "skip_next"
    ANYTIME = "anytime"


@dataclass(frozen=True)
class Decisions:
    """What the settings decide about one job; it keeps them from its start to its end.

    Attributes:
        planner: chooses how much of the prompt's cache is evicted.
        policy: what the deadline does to a job that has not ended.
        anytime_margin: s that Anytime leaves before the deadline for closing and publishing the
            answer.
        rejects_hopeless: a job is rejected whose cheapest plan has not the time that it needs.
        time_risk: share of requests that may be slower than their planned worst case.
    """

    planner: Planner
    policy: OverrunPolicy
    anytime_margin: float = 0.0
    time_risk: float = 0.0
    rejects_hopeless: bool = False

    @property
    def margin(self) -> float:
        """Seconds before its deadline at which a job is to end: 0 unless the policy is Anytime."""
        return self.anytime_margin if self.policy is OverrunPolicy.ANYTIME else 0.0


def decisions(settings: Settings) -> Decisions:
    """Read the decisions from the settings.

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
    if settings.admission not in ADMISSIONS:
        bound = f"one of {', '.join(ADMISSIONS)}"
        raise SettingError("admission", settings.admission, bound)
    rejects = settings.admission == REJECT
    return Decisions(planner, policy, settings.anytime_margin, settings.time_risk, rejects)
