# SPDX-License-Identifier: Apache-2.0
"""The planner that weighs every lever's price in quality against the time that it buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.choices import (
    TIE,
    Choices,
    Schedules,
    ended_by,
    kept_of,
    weigh,
    weigh_schedules,
)
from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.plan import (
    Eviction,
    LeverChoice,
    ModelOption,
    Plan,
    Situation,
    measured_score,
    minimal_alpha,
    seconds_of,
)
from timebill_ros.budget.time_model import TimeModel

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06)
"""Shares rho of the prompt that selection may keep."""
ALPHAS = (0.0, 0.25, 0.5, 0.6, 0.75, 0.85, 0.9, 0.95)
"""Eviction ratios that are weighed, besides the one of equation (11) where a risk is set."""
CHECKPOINT = 16
"""Response tokens between two looks at the plan of a response that is being decoded."""

# How many checkpoints ahead a second eviction may be put off, in advance. Further away they lie
# further apart, for the sake of planning time: at every checkpoint the rest is chosen anew.
_PUT_OFF = tuple(2**doublings for doublings in range(10))


@cache
def _ratios(alpha_max: float) -> NDArray[np.float64]:
    """Those of ``ALPHAS`` that are allowed; they rise."""
    return np.array([alpha for alpha in ALPHAS if alpha <= alpha_max])


@dataclass(frozen=True)
class ExpectedPlanner:
    """Maximises Q_m(rho, alpha) P(N <= n(m, rho, alpha)): the expected score of a firm deadline.

    n is the most tokens that end in time. Where the deadline cuts answers, instead of taking all of
    them, what came of the others counts too: Q sum over l > n of P(N = l) A(n / l). Before prefill
    it chooses the model m and the share rho of the prompt, with the prefill predicted, by the value
    of their best alpha; after prefill alpha, with the time that is really left. With a ``risk``,
    among the choices that miss with at most that probability. With one model, where rho is 1, the
    length is certain, and Q is flat but for a step at alpha > 0, the plan is that of equation (11).

    What ends early needs no eviction. A planner that ``hedges`` may put some of it off, in advance:
    evict to one ratio after prefill and to a larger one at a later token, for which only those
    responses pay that come so far. It plans two evictions at most, for each takes time; at every
    checkpoint it chooses anew what is left of the schedule.

    Raises:
        SettingError: alpha_max or risk outside [0, 1).
    """

    alpha_max: float = 0.95
    risk: float = 0.0
    hedges: bool = False

    def __post_init__(self) -> None:
        """Check the settings once, so that planning needs no checks of its own."""
        if not 0.0 <= self.alpha_max < 1.0:
            raise SettingError("alpha_max", self.alpha_max, "in [0, 1)")
        if not 0.0 <= self.risk < 1.0:
            raise SettingError("risk", self.risk, "in [0, 1)")

    def choose(self, options: Sequence[ModelOption]) -> LeverChoice:
        """The model and rho whose best alpha has the highest expected score; all before prefill.

        Of equally good ones the first model, the dearest, and of that the largest share. The whole
        prompt alone is sure to reuse an earlier one's prefill: what selection leaves depends on the
        instruction.
        """
        weighed = [self._before_prefill(option) for option in options]
        every = Choices(
            *(
                np.concatenate([getattr(choices, name).ravel() for choices in weighed])
                for name in ("tokens", "in_time", "score")
            )
        )
        levers = [
            LeverChoice(number, share)
            for number, option in enumerate(options)
            for share in option.shares
        ]
        ratios = every.score.size // len(levers)
        return levers[every.best(self.risk) // ratios]

    def _before_prefill(self, option: ModelOption) -> Choices:
        """What comes of every share and ratio on one model; shape [shares, ratios]."""
        situation, model = option.situation, option.times
        rho = np.array(option.shares)[:, None]
        tokens = np.maximum(1.0, np.ceil(rho * situation.prompt_tokens))
        reused = np.where(rho < 1.0, 0, situation.reused_tokens)
        prefill = (model.a * tokens + model.b) * tokens + model.c
        prefill = prefill - (model.a * reused + model.b) * reused
        selected = model.select(np.full(rho.shape, float(situation.prompt_tokens)), tokens)
        prefill = prefill + np.where(rho < 1.0, selected, 0.0)
        left = situation.pace.profiled_within(situation.remaining) - prefill
        return weigh(situation, model, rho, tokens, _ratios(self.alpha_max)[None], left)

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """The schedule by the expected score; N_W is the longest response that ends in time."""
        n_x, known = situation.prompt_tokens, _ratios(self.alpha_max)
        if self.risk > 0.0:
            known = np.unique(
                np.append(known, min(self.alpha_max, self._smallest_safe(situation, model)))
            )
        fewer = kept_of(situation, np.float64(n_x), known)
        left = situation.pace.profiled_within(situation.remaining)
        schedules = self._schedules(situation, 1, n_x, fewer)
        choices = weigh_schedules(situation, model, schedules, left)
        best = choices.best(self.risk, hopeless=schedules.shortest)
        evictions = schedules.evictions(best)
        kept = int(schedules.then[best])
        alpha = situation.evictable(float(known[fewer <= kept][0]))
        planned = max(1, int(choices.tokens[best]))
        likely = situation.predicted_tokens or planned
        missed = float(1.0 - choices.in_time[best])
        work = seconds_of(evictions, n_x, planned, model)
        return Plan(
            planner="hedged" if self.hedges else "expected",
            alpha=alpha,
            feasible=missed <= (self.risk or 0.5) + TIE,
            prompt_tokens=n_x,
            evictions=evictions,
            predicted_tokens=situation.predicted_tokens or 0,
            planned_tokens=planned,
            predicted_time=situation.spent + seconds_of(evictions, n_x, likely, model),
            wcet=situation.spent + situation.pace.worst(work),
            risk=missed,
            time_margin=situation.pace.margin,
            score=measured_score(situation.quality, situation.rho, alpha),
            rho=situation.rho,
            expected_score=float(choices.score[best]),
            reused_tokens=situation.reused_tokens,
            model=situation.model,
        )

    def ahead(
        self, situation: Situation, model: TimeModel, reached: int, kept: int
    ) -> tuple[Eviction, ...]:
        """Evicts again where that is worth more than what is cached, by P(N | N > ``reached``).

        A response of which everything that may come is in time is left alone, and so is one that
        nothing can save.
        """
        n_x, steps = situation.prompt_tokens, situation.max_tokens - reached
        left = situation.pace.profiled_within(situation.remaining)
        if left <= 0.0 or model.decode(kept + reached - 1, steps + 1) <= left:
            return ()
        fewer = kept_of(situation, np.float64(n_x), _ratios(self.alpha_max))
        if fewer[-1] >= kept:
            return ()
        schedules = self._schedules(situation, reached, kept, fewer)
        choices = weigh_schedules(situation, model, schedules, left, given=reached)
        if choices.score.max() <= 0.0:
            return ()
        # The risk is one of all requests: of those that came so far, more may miss.
        longer = 1.0 - float(ended_by(situation, np.array(reached), np.array(1.0 - kept / n_x)))
        return schedules.evictions(choices.best(min(1.0, self.risk / max(longer, TIE))))

    def _schedules(
        self, situation: Situation, reached: int, cached: int, fewer: NDArray[np.float64]
    ) -> Schedules:
        """What may be evicted from now on: at once, or where it is put off, at a checkpoint."""
        checkpoint = reached - reached % CHECKPOINT
        later = [checkpoint + CHECKPOINT * each for each in _PUT_OFF] if self.hedges else []
        later = [at_token for at_token in later if at_token < situation.max_tokens]
        return Schedules.of(reached, cached, fewer, later)

    def _smallest_safe(self, situation: Situation, model: TimeModel) -> float:
        """alpha* of equation (11) for the length that is exceeded with the risk."""
        planned = situation.planned_tokens(1.0, self.risk)
        return minimal_alpha(planned, situation, model)
