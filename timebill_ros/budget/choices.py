# SPDX-License-Identifier: Apache-2.0
"""Settings of the levers, and what comes of each: tokens that fit, how likely, what score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.budget.plan import Eviction, Situation
from timebill_ros.budget.quality import LeverQuality
from timebill_ros.budget.time_model import TimeModel

# Scores that differ by less are the same: the dearer lever is not pulled for rounding.
TIE = 1e-9
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

    def best(self, risk: float, hopeless: int = -1) -> int:
        """Index, over the flattened choices, of the best one; the first of equally good ones.

        With a risk, the best of those that miss with at most that probability, or the least risky
        if there is none. Where nothing can end in time it is ``hopeless``, the shortest: the last.
        """
        score, missed = self.score.ravel(), 1.0 - self.in_time.ravel()
        if score.max() <= 0.0:
            return hopeless % score.size
        if risk > 0.0:
            safe = missed <= risk + TIE
            if not safe.any():
                return int(np.argmax(missed <= missed.min() + TIE))
            score = np.where(safe, score, -1.0)
        return int(np.argmax(score >= score.max() - TIE))


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
    kept = kept_of(situation, prompt_tokens, alphas)
    evicted = 1.0 - kept / prompt_tokens
    evicts = kept < prompt_tokens
    spare = np.asarray(left) - np.where(
        evicts, model.evict_rate * prompt_tokens + model.evict_base, 0.0
    )
    tokens = _tokens_within(spare, kept, situation.max_tokens, model)
    quality = situation.quality or LeverQuality()
    in_time = np.where(
        tokens >= situation.max_tokens, 1.0, ended_by(situation, tokens, evicted, rho)
    )
    worth = in_time + _worth_of_cut(situation, tokens, in_time, evicted, rho)
    return Choices(tokens, in_time, quality.score(rho, evicted) * worth)


@dataclass(frozen=True)
class Schedules:
    """Some schedules of at most two evictions, from one moment of a request on; shape [schedules].

    Attributes:
        reached: response tokens at that moment.
        cached: prompt tokens that are cached then.
        now: those that stay cached from that moment on; ``cached`` where nothing is evicted yet.
        at_token: response tokens at which the second eviction is done.
        then: prompt tokens that stay cached from there on; ``now`` where nothing more is evicted.
    """

    reached: int
    cached: int
    now: NDArray[np.float64]
    at_token: NDArray[np.int64]
    then: NDArray[np.float64]

    @classmethod
    def of(
        cls, reached: int, cached: int, fewer: NDArray[np.float64], later: Sequence[int] = ()
    ) -> Schedules:
        """Those that keep ``cached`` tokens, or some of ``fewer``: first all with one eviction.

        Then those with a second one, at any of the response tokens ``later``. ``fewer`` falls.
        """
        kept = np.concatenate(([float(cached)], fewer[fewer < cached]))
        at_once = np.full(kept.size, reached)
        if not later:
            return cls(reached, cached, kept, at_once, kept)
        first, second = _pairs(kept.size)
        at_token = np.repeat(np.array(later), first.size)
        return cls(
            reached,
            cached,
            np.concatenate((kept, np.tile(kept[first], len(later)))),
            np.concatenate((at_once, at_token)),
            np.concatenate((kept, np.tile(kept[second], len(later)))),
        )

    def evictions(self, index: int) -> tuple[Eviction, ...]:
        """What one of them evicts, and when."""
        now, then = int(self.now[index]), int(self.then[index])
        first = (Eviction(self.reached, now),) if now < self.cached else ()
        second = (Eviction(int(self.at_token[index]), then),) if then < now else ()
        return (*first, *second)

    @property
    def shortest(self) -> int:
        """The index of the largest eviction at once."""
        return int(np.count_nonzero(self.at_token == self.reached)) - 1


@cache
def _pairs(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Every place of so many with every later one."""
    first, second = np.triu_indices(size, k=1)
    return first, second


def weigh_schedules(
    situation: Situation, model: TimeModel, schedules: Schedules, left: float, *, given: int = 0
) -> Choices:
    """What comes of every schedule.

    A response that ends before an eviction loses nothing by it. One that is longer pays the whole
    price of the eviction in quality, though part of it was made before: that is the worst that the
    eviction can do.

    Args:
        situation: N_x, N_max, and what is known of the length and the quality.
        model: times.
        schedules: what is evicted when.
        left: s for eviction and decoding from now on, as profiled.
        given: that the response is longer than so many tokens is known.
    """
    n_x, n_max = situation.prompt_tokens, situation.max_tokens
    now, then, at_token = schedules.now, schedules.then, schedules.at_token
    steps = at_token - schedules.reached
    first = steps * (model.p * (now + schedules.reached - 1 + (steps - 1) / 2.0) + model.q)
    count = (now < schedules.cached) + 1 * (then < now)
    # As if prefill had just ended, with the response so far behind the prompt.
    more = _tokens_within(
        left - first - count * model.evict(n_x), then + at_token - 1, n_max - at_token + 1, model
    )
    in_reach = more > 0
    tokens = np.where(in_reach, at_token - 1 + more, 0)
    lost = 1.0 - np.array((now, now, then, then)) / n_x
    ends = np.empty(lost.shape, dtype=np.int64)
    ends[0], ends[1], ends[2], ends[3] = given, at_token, at_token, tokens
    before, by_then, started, reached = ended_by(situation, ends, lost)
    by_end = np.where(in_reach, by_then + np.maximum(0.0, reached - started), before)
    by_end = np.where(tokens >= n_max, 1.0, by_end)
    cut = _worth_of_cut(situation, tokens, by_end, lost[2], situation.rho)
    dearer, score = (situation.quality or LeverQuality()).score(situation.rho, lost[1:3])
    longer = np.maximum(1.0 - before, TIE)
    in_time = (by_end - before) / longer
    spared = in_reach * (by_then - before) / longer
    return Choices(tokens, in_time, score * (in_time + cut / longer) + (dearer - score) * spared)


def _worth_of_cut(
    situation: Situation,
    tokens: NDArray[np.int64],
    in_time: NDArray[np.float64],
    evicted: NDArray[np.float64],
    rho: ArrayLike,
) -> NDArray[np.float64]:
    """What answers are worth that the deadline cuts: sum over m > n of P(m) A(n / m).

    0 where none is cut, or where A was not measured. All of one shape: n, P(N <= n), what of the
    prompt is evicted, and the share ``rho`` that was left of it before. Answers that run on are
    N_max long. Lengths are taken together in at most ``_CUT_LENGTHS`` groups.
    """
    cut = situation.quality.cut if situation.quality is not None else None
    if not situation.anytime or cut is None:
        return np.zeros(in_time.shape)
    longest = situation.max_tokens
    edges = np.unique(np.linspace(0, longest, min(_CUT_LENGTHS, longest) + 1).astype(np.int64))
    edges = np.broadcast_to(edges, (*in_time.shape, edges.size))
    evicted = np.broadcast_to(evicted, in_time.shape)[..., None]
    by_edge = ended_by(situation, edges, evicted, np.asarray(rho)[..., None])
    by_edge[..., -1] = 1.0
    known, n = in_time[..., None], tokens[..., None]
    mass = np.maximum(0.0, by_edge[..., 1:] - np.maximum(by_edge[..., :-1], known))
    middle = (np.maximum(edges[..., :-1], n) + edges[..., 1:] + 1) / 2.0
    return np.asarray((mass * cut.at(np.minimum(1.0, n / middle))).sum(-1))


def kept_of(
    situation: Situation,
    prompt_tokens: NDArray[np.float64] | np.float64,
    alphas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Whole tokens kept, as ``plan.kept_tokens`` counts them."""
    kept = np.floor((1.0 - alphas) * prompt_tokens * (1.0 + 1e-9))
    least = np.minimum(prompt_tokens, max(1, situation.window))
    return np.minimum(prompt_tokens, np.maximum(kept, least))


def _tokens_within(
    spare: NDArray[np.float64],
    kept: NDArray[np.float64],
    max_tokens: int | NDArray[np.int64],
    model: TimeModel,
) -> NDArray[np.int64]:
    """n: the most tokens that are decoded within ``spare`` s; 0 where even prefill is too late.

    s steps take p s^2 / 2 + (p kept + q - p / 2) s, a quadratic whose root is n - 1.
    """
    half = model.p / 2.0
    linear = model.p * kept + model.q - half
    time = np.maximum(spare, 0.0) + _TICK
    root = np.sqrt(linear * linear + 4.0 * half * time)
    with np.errstate(divide="ignore"):
        steps = np.minimum(2.0 * time / (linear + root), np.asarray(max_tokens) - 1.0)
    return np.where(spare < -_TICK, 0, np.floor(steps) + 1.0).astype(np.int64)


def ended_by(
    situation: Situation,
    tokens: NDArray[np.int64],
    evicted: NDArray[np.float64],
    rho: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """P(N <= tokens) at the situation's rho, or ``rho``, after evicting; by itself, not by N_max.

    Answers that run on because of the levers are not among them.
    """
    known = situation.length_risk
    if known is not None:
        longer = known.probability_beyond(tokens, evicted)
    elif situation.prior is not None:
        longer = situation.prior.beyond(tokens)
    else:
        longer = uninformed(situation.max_tokens).beyond(tokens)
    quality = situation.quality or LeverQuality()
    ends = 1.0 - quality.runs_on(situation.rho if rho is None else rho, evicted)
    return np.where(tokens < 1, 0.0, ends * (1.0 - longer))


def uninformed(max_tokens: int) -> LengthDistribution:
    """Every length up to N_max as likely as any other."""
    return LengthDistribution(np.ones(1), max_tokens)
