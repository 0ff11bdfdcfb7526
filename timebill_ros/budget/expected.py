# SPDX-License-Identifier: Apache-2.0
"""The planner that weighs every lever's price in quality against the time that it buys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timebill_ros.budget.errors import SettingError
from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import (
    Eviction,
    LeverChoice,
    ModelOption,
    Plan,
    Situation,
    measured_score,
    minimal_alpha,
)
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import TimeModel

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06)
"""Shares rho of the prompt that selection may keep."""
ALPHAS = (0.0, 0.25, 0.5, 0.6, 0.75, 0.85, 0.9, 0.95)
"""Eviction ratios that are weighed, besides the one of equation (11) where a risk is set."""

# Scores that differ by less are the same: the dearer lever is not pulled for rounding.
_TIE = 1e-9
_TICK = 1e-9  # s, as in ``plan.fits``
# Groups of lengths that what a cut answer is worth is summed over.
_CUT_LENGTHS = 64


@dataclass(frozen=True)
class Choices:
    """Some settings of the levers, and what comes of each; all of one shape.

    Attributes:
        tokens: most response tokens that end in time, 0 to N_max.
        in_time: P(N <= tokens).
        score: the expected score, Q in_time.
    """

    tokens: NDArray[np.int64]
    in_time: NDArray[np.float64]
    score: NDArray[np.float64]

    def best(self, risk: float) -> int:
        """Index, over the flattened choices, of the best one; the first of equally good ones.

        With a risk, the best of those that miss with at most that probability, or the least risky
        if there is none. Where nothing can end in time it is the last, the shortest.
        """
        score, missed = self.score.ravel(), 1.0 - self.in_time.ravel()
        if score.max() <= 0.0:
            return score.size - 1
        if risk > 0.0:
            safe = missed <= risk + _TIE
            if not safe.any():
                return int(np.argmax(missed <= missed.min() + _TIE))
            score = np.where(safe, score, -1.0)
        return int(np.argmax(score >= score.max() - _TIE))


@dataclass(frozen=True)
class ExpectedPlanner:
    """Maximises Q_m(rho, alpha) P(N <= n(m, rho, alpha)): the expected score of a firm deadline.

    n is the most tokens that end in time. Where the deadline cuts answers, instead of taking all of
    them, what came of the others counts too: Q sum over l > n of P(N = l) A(n / l). Before prefill
    it chooses the model m and the share rho of the prompt, with the prefill predicted, by the value
    of their best alpha; after prefill alpha, with the time that is really left. With a ``risk``,
    among the choices that miss with at most that probability. With one model, where rho is 1, the
    length is certain, and Q is flat but for a step at alpha > 0, the plan is that of equation (11).

    Raises:
        SettingError: alpha_max or risk outside [0, 1).
    """

    alpha_max: float = 0.95
    risk: float = 0.0

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
        alphas = np.array([alpha for alpha in ALPHAS if alpha <= self.alpha_max] or [0.0])[None]
        tokens = np.maximum(1.0, np.ceil(rho * situation.prompt_tokens))
        reused = np.where(rho < 1.0, 0, situation.reused_tokens)
        prefill = (model.a * tokens + model.b) * tokens + model.c
        prefill = prefill - (model.a * reused + model.b) * reused
        selected = model.select(np.full(rho.shape, float(situation.prompt_tokens)), tokens)
        prefill = prefill + np.where(rho < 1.0, selected, 0.0)
        left = situation.pace.profiled_within(situation.remaining) - prefill
        return weigh(situation, model, rho, tokens, alphas, left)

    def plan(self, situation: Situation, model: TimeModel) -> Plan:
        """alpha by the expected score; N_W is the longest response that ends in time."""
        ratios = {alpha for alpha in ALPHAS if alpha <= self.alpha_max} | {0.0}
        if self.risk > 0.0:
            ratios.add(min(self.alpha_max, self._smallest_safe(situation, model)))
        alphas = np.array(sorted(ratios))
        left = situation.pace.profiled_within(situation.remaining)
        n_x = np.float64(situation.prompt_tokens)
        choices = weigh(situation, model, situation.rho, n_x, alphas, left)
        best = choices.best(self.risk)
        alpha = situation.evictable(float(alphas[best]))
        planned = max(1, int(choices.tokens[best]))
        likely = situation.predicted_tokens or planned
        kept = int(_kept(situation, n_x, alphas[best : best + 1])[0])
        missed = float(1.0 - choices.in_time[best])
        work = model.evict_and_decode(situation.prompt_tokens, kept, planned)
        return Plan(
            planner="expected",
            alpha=alpha,
            feasible=missed <= (self.risk or 0.5) + _TIE,
            prompt_tokens=situation.prompt_tokens,
            evictions=(Eviction(1, kept),) if kept < n_x else (),
            predicted_tokens=situation.predicted_tokens or 0,
            planned_tokens=planned,
            predicted_time=situation.spent
            + model.evict_and_decode(situation.prompt_tokens, kept, likely),
            wcet=situation.spent + situation.pace.worst(work),
            risk=missed,
            time_margin=situation.pace.margin,
            score=measured_score(situation, alpha),
            rho=situation.rho,
            expected_score=float(choices.score[best]),
            reused_tokens=situation.reused_tokens,
            model=situation.model,
        )

    def keep_on(self, situation: Situation, model: TimeModel, reached: int, kept: int) -> int:
        """Evicts again where that is worth more than what is cached, by P(N | N > ``reached``).

        A response of which everything that may come is in time is left alone, and so is one that
        nothing can save. An eviction pays its whole price in quality, though part of the response
        was made before it.
        """
        n_x, n_max, left = situation.prompt_tokens, situation.max_tokens, situation.remaining
        left = situation.pace.profiled_within(left)
        steps = n_max - reached
        if left <= 0.0 or model.decode(kept + reached - 1, steps + 1) <= left:
            return kept
        alphas = np.array([alpha for alpha in ALPHAS if alpha <= self.alpha_max])
        fewer = _kept(situation, np.float64(n_x), alphas)
        cached = np.concatenate(([float(kept)], fewer[fewer < kept]))
        if cached.size == 1:
            return kept
        spare = left - np.where(cached < kept, model.evict(n_x), 0.0)
        # As if prefill had just ended, with the response so far behind the prompt.
        tokens = reached - 1 + _tokens_within(spare, cached + reached - 1, steps + 1, model)
        evicted = 1.0 - cached / n_x
        quality = situation.quality or LeverQuality()
        ends = 1.0 - quality.runs_on(situation.rho, evicted)
        by_now = ends * _at_most(situation, np.full(cached.shape, reached), evicted)
        by_then = ends * _at_most(situation, tokens, evicted)
        later = np.maximum(1.0 - by_now, _TIE)
        in_time = np.where(tokens >= n_max, 1.0, np.clip((by_then - by_now) / later, 0.0, 1.0))
        reached_by = np.where(tokens >= n_max, 1.0, by_then)
        cut = _worth_of_cut(situation, tokens, reached_by, evicted, ends) / later
        choices = Choices(tokens, in_time, quality.score(situation.rho, evicted) * (in_time + cut))
        if choices.score.max() <= 0.0:
            return kept
        # The risk is one of all requests: of those that came so far, more may miss.
        risk = min(1.0, self.risk / float(later[0]))
        return int(cached[choices.best(risk)])

    def _smallest_safe(self, situation: Situation, model: TimeModel) -> float:
        """alpha* of equation (11) for the length that is exceeded with the risk."""
        planned = situation.planned_tokens(1.0, self.risk)
        return minimal_alpha(planned, situation, model)


def weigh(
    situation: Situation,
    model: TimeModel,
    rho: ArrayLike,
    prompt_tokens: NDArray[np.float64] | np.float64,
    alphas: NDArray[np.float64],
    left: ArrayLike,
) -> Choices:
    """What comes of every setting of the levers, broadcast against each other.

    Args:
        situation: N_max, the window, and what is known of the length and the quality.
        model: times.
        rho: shares of the prompt that are kept.
        prompt_tokens: N_x after each of them.
        alphas: eviction ratios.
        left: s for eviction and decoding after each, as profiled; negative where prefill is late.
    """
    kept = _kept(situation, prompt_tokens, alphas)
    evicted = 1.0 - kept / prompt_tokens
    evicts = kept < prompt_tokens
    spare = np.asarray(left) - np.where(
        evicts, model.evict_rate * prompt_tokens + model.evict_base, 0.0
    )
    tokens = _tokens_within(spare, kept, situation.max_tokens, model)
    quality = situation.quality or LeverQuality()
    ends = 1.0 - quality.runs_on(rho, evicted)
    in_time = np.where(
        tokens >= situation.max_tokens, 1.0, ends * _at_most(situation, tokens, evicted)
    )
    worth = in_time + _worth_of_cut(situation, tokens, in_time, evicted, ends)
    return Choices(tokens, in_time, quality.score(rho, evicted) * worth)


def _worth_of_cut(
    situation: Situation,
    tokens: NDArray[np.int64],
    in_time: NDArray[np.float64],
    evicted: NDArray[np.float64],
    ends: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What answers are worth that the deadline cuts: sum over m > n of P(m) A(n / m).

    0 where none is cut, or where A was not measured. All of one shape: n, P(N <= n), and what of
    the prompt is evicted, with the share of answers that end by themselves then; the others are
    N_max long. Lengths are taken together in at most ``_CUT_LENGTHS`` groups.
    """
    cut = situation.quality.cut if situation.quality is not None else None
    if not situation.anytime or cut is None:
        return np.zeros(in_time.shape)
    longest = situation.max_tokens
    edges = np.unique(np.linspace(0, longest, min(_CUT_LENGTHS, longest) + 1).astype(np.int64))
    edges = np.broadcast_to(edges, (*in_time.shape, edges.size))
    evicted = np.broadcast_to(evicted, in_time.shape)[..., None]
    by_edge = np.asarray(ends)[..., None] * _at_most(situation, edges, evicted)
    by_edge[..., -1] = 1.0
    known, n = in_time[..., None], tokens[..., None]
    mass = np.maximum(0.0, by_edge[..., 1:] - np.maximum(by_edge[..., :-1], known))
    middle = (np.maximum(edges[..., :-1], n) + edges[..., 1:] + 1) / 2.0
    return np.asarray((mass * cut.at(np.minimum(1.0, n / middle))).sum(-1))


def _kept(
    situation: Situation,
    prompt_tokens: NDArray[np.float64] | np.float64,
    alphas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Whole tokens kept, as ``plan.kept_tokens`` counts them."""
    kept = np.floor((1.0 - alphas) * prompt_tokens * (1.0 + 1e-9))
    least = np.minimum(prompt_tokens, max(1, situation.window))
    return np.minimum(prompt_tokens, np.maximum(kept, least))


def _tokens_within(
    spare: NDArray[np.float64], kept: NDArray[np.float64], max_tokens: int, model: TimeModel
) -> NDArray[np.int64]:
    """n: the most tokens that are decoded within ``spare`` s; 0 where even prefill is too late.

    s steps take p s^2 / 2 + (p kept + q - p / 2) s, a quadratic whose root is n - 1.
    """
    half = model.p / 2.0
    linear = model.p * kept + model.q - half
    time = np.maximum(spare, 0.0) + _TICK
    root = np.sqrt(linear * linear + 4.0 * half * time)
    with np.errstate(divide="ignore"):
        steps = np.minimum(2.0 * time / (linear + root), max_tokens - 1.0)
    return np.where(spare < -_TICK, 0, np.floor(steps) + 1.0).astype(np.int64)


def _at_most(
    situation: Situation, tokens: NDArray[np.int64], alphas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(N <= tokens) after evicting at ``alphas``, of a response that ends by itself."""
    known = situation.length_risk
    if known is not None:
        longer = known.probability_beyond(tokens, alphas)
    elif situation.prior is not None:
        longer = situation.prior.beyond(tokens)
    else:
        longer = uninformed(situation.max_tokens).beyond(tokens)
    return np.where(tokens < 1, 0.0, 1.0 - longer)


def uninformed(max_tokens: int) -> LengthDistribution:
    """Every length up to N_max as likely as any other."""
    return LengthDistribution(np.ones(1), max_tokens)
