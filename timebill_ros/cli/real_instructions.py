# SPDX-License-Identifier: Apache-2.0
"""What the demo of a real model asks, and budgets as shares of the times that its profile predicts.

A budget that is a share of a predicted time means the same on a slow and on a fast machine. What
comes of it does not: a machine that is busier than it was when it was profiled misses more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from timebill_ros.budget.time_model import TimeModel
from timebill_ros.cli.handbook import HANDBOOK, shift_log

_UNHURRIED = 600.0  # s


class BudgetRule(StrEnum):
    """How a budget follows from the profile; the value is its formula."""

    UNHURRIED = f"{_UNHURRIED:.0f} s"
    COMFORTABLE = "1.5 worst case"
    TIGHT = "worst case with half evicted"
    SHORT = "prefill + 0.4 decode"
    HOPELESS = "0.5 prefill"

    @property
    def letter(self) -> str:
        """By which ids begin."""
        return self.name[0].lower()

    def seconds(self, model: TimeModel, prompt_tokens: int, max_tokens: int) -> float:
        """T, from N_x and N_max.

        The worst case is equation (9) for N_W = N_max, at alpha = 0 unless said otherwise.
        """
        prefill = model.prefill(prompt_tokens)
        whole = prefill + model.decode(prompt_tokens, max_tokens)
        match self:
            case BudgetRule.UNHURRIED:
                return _UNHURRIED
            case BudgetRule.COMFORTABLE:
                return 1.5 * whole
            case BudgetRule.TIGHT:
                half = prompt_tokens // 2
                return prefill + model.evict_and_decode(prompt_tokens, half, max_tokens)
            case BudgetRule.SHORT:
                return prefill + 0.4 * (whole - prefill)
            case BudgetRule.HOPELESS:
                return 0.5 * prefill


LEGEND = ", ".join(f"{budget.letter} {budget.value}" for budget in BudgetRule)


@dataclass(frozen=True)
class RealInstruction:
    """One instruction of the run.

    Attributes:
        prompt: the question.
        max_tokens: N_max of its answer.
        budget: how long it may take.
        document: what the question is about, which precedes it.
    """

    prompt: str
    max_tokens: int
    budget: BudgetRule
    document: str = ""

    @property
    def text(self) -> str:
        """The whole turn."""
        return f"{self.document}\n{self.prompt}" if self.document else self.prompt


_LOG = shift_log(40)
_BOTH = f"{HANDBOOK}\n{_LOG}"
INSTRUCTIONS = (
    RealInstruction("What is the capital of France?", 32, BudgetRule.UNHURRIED),
    RealInstruction("What should a robot do when its battery is low?", 64, BudgetRule.COMFORTABLE),
    RealInstruction(
        "Name three things to check before a mobile robot leaves its charger.",
        *(96, BudgetRule.COMFORTABLE),
    ),
    RealInstruction(
        "Write one sentence that tells passengers that the train is late.",
        *(48, BudgetRule.COMFORTABLE),
    ),
    RealInstruction("Why is a wet floor dangerous for a wheeled robot?", 96, BudgetRule.SHORT),
    RealInstruction("When does a robot drive to a charger?", 64, BudgetRule.COMFORTABLE, HANDBOOK),
    RealInstruction(
        "Whom does a robot call when gate B stays closed?", 48, BudgetRule.TIGHT, HANDBOOK
    ),
    RealInstruction("Summarize the text above.", 96, BudgetRule.SHORT, HANDBOOK),
    RealInstruction("What was cleaned at bay 12?", 48, BudgetRule.TIGHT, _LOG),
    RealInstruction("Which rule did robot 7 break?", 48, BudgetRule.TIGHT, _BOTH),
    RealInstruction("Which rule did robot 7 keep?", 48, BudgetRule.HOPELESS, _BOTH),
    RealInstruction("Summarize the log above.", 96, BudgetRule.COMFORTABLE, _LOG),
    RealInstruction("What is the capital of Japan?", 32, BudgetRule.UNHURRIED),
)
# How many of the last ones are sent together, so that they wait for each other.
TOGETHER = 2
