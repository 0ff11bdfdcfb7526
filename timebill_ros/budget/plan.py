# SPDX-License-Identifier: Apache-2.0
"""What a plan is, what it is made from, and the smallest eviction that meets a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.pace import AS_PROFILED, Pace
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.risk import LengthRisk
from timebill_ros.budget.time_model import TimeModel

# Relative slack for whole-token rounding, so that (1 - 0.9) * 1000 keeps 100 tokens, not 99.
_ROUNDING = 1e-9

# Instants are whole nanoseconds, so a plan that misses by less than one is on time. A plan at the
# exact alpha* uses its budget to the last bit, and rounding must not call it infeasible.
_TICK = 1e-9


@dataclass(frozen=True)
class Situation:
    """What is known of a request when its plan is made: prefill and prediction lie behind it.

    Attributes:
        prompt_tokens: N_x.
        max_tokens: N_max, at least 1.
        predicted_tokens: N_hat; None where no prediction came in time.
        window: observation window, the last prompt tokens that are never evicted.
        spent: s since the request's execution started (prefill and the predictor's excess).
        remaining: s from now to the deadline, T - t_prefill - delta; negative once it passed.
        length_risk: how probable longer responses are; None where no prediction came in time.
        pace: how late eviction and decoding are taken to be in the worst case.
        quality: what the levers cost the loaded model; None where that was not measured.
        rho: share of the prompt's tokens that selection kept; ``prompt_tokens`` are those.
        reused_tokens: prompt tokens whose prefill an earlier prompt has done; before prefill, those
            of the whole prompt.
        model: name of the model that answers; "" where there is nothing to tell it from.
        prior: lengths of recent responses, which stand in for a prediction that there is not.
        anytime: whether the deadline cuts the answer, instead of taking all of it.
    """

    prompt_tokens: int
    max_tokens: int
    predicted_tokens: int | None
    window: int
    spent: float
    remaining: float
    length_risk: LengthRisk | None = None
    pace: Pace = AS_PROFILED
    quality: LeverQuality | None = None
    rho: float = 1.0
    prior: LengthDistribution | None = None
    reused_tokens: int = 0
    model: str = ""
    anytime: bool = False

    def smallest_kept(self) -> int:
        """Fewest prompt tokens that may stay cached: the window, 1, at most the prompt."""
        return min(self.prompt_tokens, max(1, self.window))

    def evictable(self, alpha: float) -> float:
        """``alpha``, or the share that is not window where that is less."""
        return min(alpha, 1.0 - self.smallest_kept() / self.prompt_tokens)

    def planned_tokens(self, pessimism: float, risk: float = 0.0, alpha: float = 0.0) -> int:
        """N_W: min(k N_hat, N_max), equation (8), or where ``risk`` is set the length for it.

        That is the smallest n with P(N > n) <= risk after evicting at ``alpha``. Where neither is
        known it is N_max.
        """
        if risk > 0.0:
            if self.length_risk is None:
                return self.max_tokens
            known = self.length_risk.at(self.evictable(alpha))
            return known.planned_tokens(risk, self.max_tokens)
        if self.predicted_tokens is None:
            return self.max_tokens
        return min(math.ceil(pessimism * self.predicted_tokens), self.max_tokens)

    def risk_of(self, planned: int, alpha: float) -> float | None:
        """P(N > ``planned``) after evicting at ``alpha``; None where not known.

        0 for N_max, which no response exceeds.
        """
        if planned >= self.max_tokens:
            return 0.0
        return self.length_risk.at(alpha).miss_probability(planned) if self.length_risk else None


@dataclass(frozen=True)
class ModelOption:
    """One of the models that may answer a request, before its prefill.

    Attributes:
        situation: of the request on this model, with its whole prompt; ``remaining`` is the time
            for prefill, eviction and decoding.
        times: the model's time model.
        shares: shares rho of the prompt that may be kept; they fall.
    """

    situation: Situation
    times: TimeModel
    shares: Sequence[float] = (1.0,)


class LeverChoice(NamedTuple):
    """What is decided before prefill.

    Attributes:
        model: index of the model that answers.
        share: share rho of the prompt that it is given.
    """

    model: int
    share: float


DEAREST = LeverChoice(0, 1.0)
"""The whole prompt on the largest model: no lever is pulled."""


class Eviction(NamedTuple):
    """One step of a plan's schedule of evictions.

    Attributes:
        at_token: response tokens that exist when it is done; prefill makes the first.
        kept_tokens: whole prompt tokens that stay cached per KV head.
    """

    at_token: int
    kept_tokens: int


@dataclass(frozen=True)
class Plan:
    """How one request will meet its deadline.

    Attributes:
        planner: name of the planner that made it.
        model: name of the model that answers, as the situation has it.
        alpha: eviction ratio, share of the prompt's cache to drop; less than the planner chose
            where the observation window is kept against it.
        feasible: whether decoding N_W tokens ends by the deadline.
        prompt_tokens, predicted_tokens, planned_tokens: N_x, N_hat and N_W;
            N_hat is 0 where no prediction came in time.
        evictions: what is evicted and when, in the order of ``at_token``; empty where nothing is.
            Each keeps fewer tokens than the one before. While decoding they are decided anew from
            where the response has come to, and of an ended one those are left that were done; what
            the plan promised stays as it was promised.
        predicted_time: s of execution, start to end, for N_hat tokens (N_W without a prediction).
        wcet: s of execution, start to end, for N_W tokens at the situation's pace, equation (9).
        risk: calibrated probability that the response is longer than N_W; None where not known.
        time_margin: how late its pace takes eviction and decoding to be, as a score of
            ``pace.lateness``.
        score: Q(rho, alpha), the mean score of 0 to 100 that was measured at these levers; None
            where none was.
        rho: share of the prompt's tokens that selection kept; ``prompt_tokens`` are those.
        reused_tokens: of the prompt's, those whose prefill an earlier prompt had done.
        expected_score: the score times the probability of ending in time, of a planner that knows
            it; None for the others.
    """

    planner: str
    alpha: float
    feasible: bool
    prompt_tokens: int
    evictions: tuple[Eviction, ...]
    predicted_tokens: int
    planned_tokens: int
    predicted_time: float
    wcet: float
    risk: float | None = None
    time_margin: float = 0.0
    score: float | None = None
    rho: float = 1.0
    expected_score: float | None = None
    reused_tokens: int = 0
    model: str = ""

    @property
    def kept_tokens(self) -> int:
        """Whole prompt tokens that stay cached per KV head after the last eviction."""
        return self.evictions[-1].kept_tokens if self.evictions else self.prompt_tokens

    @property
    def evicted_at(self) -> int:
        """Response tokens that exist at the last eviction; 1 where nothing is evicted."""
        return self.evictions[-1].at_token if self.evictions else 1

    def kept_at(self, response_tokens: int) -> int:
        """Whole prompt tokens that are to be cached once so many response tokens exist."""
        due = [kept for at_token, kept in self.evictions if at_token <= response_tokens]
        return due[-1] if due else self.prompt_tokens

    def profiled(self, model: TimeModel, response_tokens: int) -> float:
        """Seconds that the model says for evicting and decoding as far as ``response_tokens``."""
        return seconds_of(self.evictions, self.prompt_tokens, response_tokens, model)

    def with_evictions(self, evictions: tuple[Eviction, ...], quality: LeverQuality | None) -> Plan:
        """The plan with these in the place of its own, and the score after the last of them."""
        if evictions == self.evictions:
            return self
        kept = evictions[-1].kept_tokens if evictions else self.prompt_tokens
        alpha = 1.0 - kept / self.prompt_tokens
        score = measured_score(quality, self.rho, alpha)
        return replace(self, evictions=evictions, alpha=alpha, score=score)


def seconds_of(
    evictions: Sequence[Eviction], prompt_tokens: int, response_tokens: int, model: TimeModel
) -> float:
    """s that the model says for decoding as far as ``response_tokens``, evicting on the way."""
    seconds, reached, kept = 0.0, 1, prompt_tokens
    for at_token, fewer in evictions:
        if at_token > response_tokens:
            break
        # As if from token 1: the response so far is cached like a longer prompt.
        seconds += model.decode(kept + reached - 1, at_token - reached + 1)
        seconds += model.evict(prompt_tokens)
        reached, kept = at_token, fewer
    return seconds + model.decode(kept + reached - 1, response_tokens - reached + 1)


def kept_tokens(alpha: float, situation: Situation) -> int:
    """Whole tokens kept at ratio alpha: floor((1 - alpha) N_x), at least the window or 1."""
    kept = math.floor((1.0 - alpha) * situation.prompt_tokens * (1.0 + _ROUNDING))
    return min(situation.prompt_tokens, max(kept, situation.smallest_kept()))


def fits(seconds: float, situation: Situation) -> bool:
    """Whether ``seconds`` of work from now end by the deadline, to the nanosecond."""
    return seconds <= situation.remaining + _TICK


def plan_with(
    planner: str, alpha: float, planned: int, situation: Situation, model: TimeModel
) -> Plan:
    """The plan that evicts at ``alpha``, rechecked by equation (9) on whole tokens."""
    kept = kept_tokens(alpha, situation)
    worst = situation.pace.worst(model.evict_and_decode(situation.prompt_tokens, kept, planned))
    evicted = situation.evictable(alpha)
    likely_tokens = situation.predicted_tokens or planned
    likely = model.evict_and_decode(situation.prompt_tokens, kept, likely_tokens)
    return Plan(
        planner=planner,
        alpha=evicted,
        feasible=fits(worst, situation),
        prompt_tokens=situation.prompt_tokens,
        evictions=(Eviction(1, kept),) if kept < situation.prompt_tokens else (),
        predicted_tokens=situation.predicted_tokens or 0,
        planned_tokens=planned,
        predicted_time=situation.spent + likely,
        wcet=situation.spent + worst,
        risk=situation.risk_of(planned, evicted),
        time_margin=situation.pace.margin,
        score=measured_score(situation.quality, situation.rho, evicted),
        rho=situation.rho,
        reused_tokens=situation.reused_tokens,
        model=situation.model,
    )


def measured_score(quality: LeverQuality | None, rho: float, alpha: float) -> float | None:
    """Q(rho, alpha) of the loaded model; None where it was not measured."""
    if quality is None or not quality.measured:
        return None
    return float(quality.score(rho, alpha))


def minimal_alpha(planned: int, situation: Situation, model: TimeModel) -> float:
    """alpha* >= 0 of equation (11), corrected, unclipped above: may exceed alpha_max and 1.

    Solving delta + t_WCET <= T for alpha gives, with T as the situation's pace leaves it,

        alpha* = 1 - (T - t_prefill - delta - t_evict) / (p N_x (N_W - 1))
                 + (N_W - 2) / (2 N_x) + q / (p N_x)

    (the paper prints the middle term as (N_W - 2) / (2 p N_x), which is not dimensionless).
    t_evict counts only where something is evicted, so alpha = 0 is tried first. Where alpha has
    no effect (N_W <= 1, p <= 0, or a prompt that is all window) it is 0: evicting would cost
    quality and buy nothing.
    """
    n_x, steps = situation.prompt_tokens, planned - 1
    if fits(situation.pace.worst(model.evict_and_decode(n_x, n_x, planned)), situation):
        return 0.0
    if steps <= 0 or model.p <= 0.0 or situation.smallest_kept() == n_x:
        return 0.0
    decode_time = situation.pace.profiled_within(situation.remaining) - model.evict(n_x)
    per_prompt_token = model.p * n_x
    alpha = (
        1.0
        - decode_time / (per_prompt_token * steps)
        + (planned - 2) / (2.0 * n_x)
        + model.q / per_prompt_token
    )
    return max(0.0, alpha)
