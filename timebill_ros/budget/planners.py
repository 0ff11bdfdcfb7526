# SPDX-License-Identifier: Apache-2.0
"""The planners by their names: TimeBill's, those that it is compared with, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.expected import ExpectedPlanner
from timebill_ros.budget.plan import (
    DEAREST,
    Eviction,
    LeverChoice,
    ModelOption,
    Plan,
    Situation,
    minimal_alpha,
    plan_with,
)
from timebill_ros.budget.time_model import TimeModel

PLANNERS = ("expected", "hedged", "timebill", "fixed", "vanilla")
PAPER_PESSIMISM = 5.0
"""The paper's k."""


class Planner(Protocol):
    """Chooses what one request is shortened by.

    Attributes:
        risk: accepted probability of a response that is longer than planned; 0 for none set.
    """

    @property
    def risk(self) -> float: ...  # noqa: D102 - see the class

    def choose(self, options: Sequence[ModelOption]) -> LeverChoice:
        """Before prefill: the model, one of ``options`` (largest first), and its share rho."""

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """After prefill: the plan for this request; never raises where a budget cannot be met."""

    def ahead(
        self, situation: Situation, model: TimeModel, reached: int, kept: int
    ) -> tuple[Eviction, ...]:
        """While decoding: what is evicted of the ``kept`` prompt tokens, from now on.

        The situation's ``remaining`` is that of now, when ``reached`` response tokens exist.
        """


class WholePrompts:
    """What planners have in common that shorten no prompt, ask the largest model, and plan once."""

    def choose(self, options: Sequence[ModelOption]) -> LeverChoice:
        """All of the prompt, on the first model."""
        return DEAREST

    def ahead(
        self, situation: Situation, model: TimeModel, reached: int, kept: int
    ) -> tuple[Eviction, ...]:
        """Nothing more: one plan per request."""
        return ()


@dataclass(frozen=True)
class TimeBillPlanner(WholePrompts):
    """The smallest alpha whose worst case meets the budget, equations (10) and (11).

    Raises:
        SettingError: alpha_max or risk outside [0, 1), or pessimism below 1.
    """

    alpha_max: float = 0.95
    pessimism: float = PAPER_PESSIMISM
    risk: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings once, so that planning needs no checks of its own."""
        _check_caution(self.pessimism, self.risk)
        if not 0.0 <= self.alpha_max < 1.0:
            raise SettingError("alpha_max", self.alpha_max, "in [0, 1)")

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """alpha* clipped to [0, alpha_max]; 0 where evicting costs more time than it saves.

        With a risk, N_W may be longer after so large an eviction. Then alpha* is the one of that
        length, or, where no ratio is enough for it, still that of the shorter one.
        """
        kept_whole = situation.planned_tokens(self.pessimism, self.risk)
        alpha = min(minimal_alpha(kept_whole, situation, model), self.alpha_max)
        planned = max(kept_whole, situation.planned_tokens(self.pessimism, self.risk, alpha))
        if planned > kept_whole:
            enough = minimal_alpha(planned, situation, model)
            alpha = enough if enough <= self.alpha_max else alpha
        if alpha > 0.0:
            evicting = plan_with("timebill", alpha, planned, situation, model)
            if evicting.wcet < plan_with("timebill", 0.0, planned, situation, model).wcet:
                return evicting
        return plan_with("timebill", 0.0, kept_whole, situation, model)


@dataclass(frozen=True)
class FixedPlanner(WholePrompts):
    """The same ratio for every request, whatever its budget.

    Raises:
        SettingError: alpha or risk outside [0, 1), or pessimism below 1.
    """

    alpha: float
    pessimism: float = PAPER_PESSIMISM
    risk: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings once, so that planning needs no checks of its own."""
        _check_caution(self.pessimism, self.risk)
        if not 0.0 <= self.alpha < 1.0:
            raise SettingError("fixed_alpha", self.alpha, "in [0, 1)")

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """The set ratio, with the worst case that it leads to."""
        planned = situation.planned_tokens(self.pessimism, self.risk, self.alpha)
        return plan_with("fixed", self.alpha, planned, situation, model)


@dataclass(frozen=True)
class VanillaPlanner(WholePrompts):
    """No eviction: what inference does without a time budget.

    Raises:
        SettingError: pessimism below 1 or risk outside [0, 1).
    """

    pessimism: float = PAPER_PESSIMISM
    risk: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings once, so that planning needs no checks of its own."""
        _check_caution(self.pessimism, self.risk)

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """alpha = 0, with the worst case that it leads to."""
        planned = situation.planned_tokens(self.pessimism, self.risk)
        return plan_with("vanilla", 0.0, planned, situation, model)


def make_planner(
    name: str, *, alpha_max: float, pessimism: float, risk: float, fixed_alpha: float
) -> Planner:
    """The planner of that name with the settings that concern it.

    Raises:
        SettingError: an unknown name or a setting out of its bounds.
    """
    if name in ("expected", "hedged"):
        return ExpectedPlanner(alpha_max=alpha_max, risk=risk, hedges=name == "hedged")
    if name == "timebill":
        return TimeBillPlanner(alpha_max=alpha_max, pessimism=pessimism, risk=risk)
    if name == "fixed":
        return FixedPlanner(alpha=fixed_alpha, pessimism=pessimism, risk=risk)
    if name == "vanilla":
        return VanillaPlanner(pessimism=pessimism, risk=risk)
    raise SettingError("planner", name, f"one of {', '.join(PLANNERS)}")


def _check_caution(pessimism: float, risk: float) -> None:
    if not pessimism >= 1.0:
        raise SettingError("pessimism", pessimism, "at least 1")
    if not 0.0 <= risk < 1.0:
        raise SettingError("risk", risk, "in [0, 1)")
