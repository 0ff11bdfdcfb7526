# SPDX-License-Identifier: Apache-2.0
"""What is compared: the node's own settings under short names, and what nobody can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Known(Enum):
    """What a method knows of the answer when it plans."""

    PREDICTED = "predicted"
    """What the predictor says."""
    NOTHING = "nothing"
    """No prediction: N_W = N_max."""
    LENGTH = "length"
    """The length of the answer to the whole prompt."""
    ALL = "all"
    """The length and the score of every answer; takes the best of those that end in time."""


@dataclass(frozen=True)
class PlanningMethod:
    """One way to plan.

    Attributes:
        title: for tables and pictures.
        settings: the node's parameters that it sets.
        known: what it knows.
        selects: whether it may shorten prompts.
        quantised: whether the model's weights are rounded ones.
        cascades: whether a smaller model may answer in its place.
    """

    title: str
    settings: Mapping[str, Any]
    known: Known = Known.PREDICTED
    selects: bool = False
    quantised: bool = False
    cascades: bool = False


def _fixed(alpha: float) -> PlanningMethod:
    return PlanningMethod(f"fixed {alpha:g}", {"planner": "fixed", "fixed_alpha": alpha})


def _timebill(k: int) -> PlanningMethod:
    return PlanningMethod(f"timebill, k = {k}", {"planner": "timebill", "pessimism": float(k)})


def _risk(risk: float) -> PlanningMethod:
    return PlanningMethod(f"timebill, risk {risk:g}", {"planner": "timebill", "risk": risk})


def _expected_risk(risk: float) -> PlanningMethod:
    settings = {"planner": "expected", "risk": risk}
    return PlanningMethod(f"expected, risk {risk:g}", settings, selects=True)


METHODS: Mapping[str, PlanningMethod] = {
    "vanilla": PlanningMethod("vanilla", {"planner": "vanilla"}),
    **{f"fixed-{alpha:g}": _fixed(alpha) for alpha in (0.25, 0.5, 0.75, 0.95)},
    "quantised": PlanningMethod("rounded weights", {"planner": "vanilla"}, quantised=True),
    **{f"timebill-k{k}": _timebill(k) for k in range(1, 9)},
    **{f"timebill-risk-{risk:g}": _risk(risk) for risk in (0.01, 0.05, 0.2, 0.5)},
    "no-predictor": PlanningMethod(
        "timebill, no predictor", {"planner": "timebill"}, Known.NOTHING
    ),
    "oracle-length": PlanningMethod(
        "timebill, true length", {"planner": "timebill", "pessimism": 1.0}, Known.LENGTH
    ),
    "hindsight-alpha": PlanningMethod("best alpha in hindsight", {"planner": "vanilla"}, Known.ALL),
    "expected-alpha": PlanningMethod("expected, eviction alone", {"planner": "expected"}),
    "hedged-alpha": PlanningMethod("hedged, eviction alone", {"planner": "hedged"}),
    "expected-rho": PlanningMethod(
        "expected, selection alone", {"planner": "expected", "alpha_max": 0.0}, selects=True
    ),
    "expected": PlanningMethod("expected, both levers", {"planner": "expected"}, selects=True),
    "hedged": PlanningMethod("hedged, both levers", {"planner": "hedged"}, selects=True),
    **{f"expected-risk-{risk:g}": _expected_risk(risk) for risk in (0.05, 0.2)},
    "cascade": PlanningMethod(
        "expected, two models", {"planner": "expected"}, selects=True, cascades=True
    ),
    "expected-no-predictor": PlanningMethod(
        "expected, no predictor", {"planner": "expected"}, Known.NOTHING, selects=True
    ),
    "hindsight": PlanningMethod(
        "best of both in hindsight", {"planner": "expected"}, Known.ALL, selects=True
    ),
}
"""By the names of the command's ``--methods``."""


def applicable(quantised: object, smaller: object) -> list[str]:
    """The methods that a run can compare: those of other models only if it has them."""
    return [
        name
        for name, method in METHODS.items()
        if (quantised or not method.quantised) and (smaller or not method.cascades)
    ]


HALVES = "halves"
"""In the place of a file of curves: for each half of the cases those of the other half."""
ROUNDED = ("int8", "int4")
"""What the weights of the method ``quantised`` may be rounded to."""

_BY = "@"


def selecting(name: str, selection: str) -> str:
    """The name of a method's rows after selection by another method than the run's first."""
    return f"{name}{_BY}{selection}"


def title(name: str) -> str:
    """What a table or a picture calls a method's rows."""
    name, _, selection = name.partition(_BY)
    return METHODS[name].title + (f", selection by {selection}" if selection else "")


PESSIMISMS = {k: f"timebill-k{k}" for k in range(1, 9)}
"""The methods of the paper's Fig. 8, by k."""
