# SPDX-License-Identifier: Apache-2.0
"""The execution time estimator (ETE): how long each stage of one request takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Tokens = TypeVar("Tokens", float, NDArray[np.float64])


@dataclass(frozen=True)
class Quadratic:
    """t(n) = a n^2 + b n + c, in seconds for n tokens, with non-negative coefficients."""

    a: float
    b: float
    c: float

    def __call__(self, tokens: int) -> float:
        """Seconds for ``tokens`` tokens."""
        return (self.a * tokens + self.b) * tokens + self.c

    def largest_within(self, limit: float) -> int:
        """Most tokens n >= 0 with t(n) <= ``limit`` seconds; 0 where even t(0) is above it.

        Raises:
            ValueError: the time does not grow with n, so that no n is the largest.
        """
        if self.c > limit:
            return 0
        if self.a <= 0.0 and self.b <= 0.0:
            raise ValueError("a time that does not grow with its input has no largest input")
        # The root in the form that neither divides by a = 0 nor cancels for a small a.
        spare = limit - self.c
        root = 2.0 * spare / (self.b + math.sqrt(self.b * self.b + 4.0 * self.a * spare))
        tokens = math.floor(root)
        # The rounding of the root may be off by one token either way.
        if self(tokens + 1) <= limit:
            return tokens + 1
        return tokens if self(tokens) <= limit else max(0, tokens - 1)


@dataclass(frozen=True)
class TimeModel:
    """Seconds per stage of the loaded model on this machine, fitted to profiled points.

    The names are the paper's: prefill a N_x^2 + b N_x + c and one decoding step p N_kv + q
    (equation 4). Eviction, selection and the length predictor take real time too: an eviction costs
    ``evict_rate`` N_x + ``evict_base``, the predictor ``predictor(N_p)``.

    Attributes:
        a, b, c: prefill coefficients, s/token^2, s/token and s.
        p, q: decoding step coefficients, s/token of cache and s.
        evict_rate, evict_base: scoring and compacting the cache, s/token of prompt and s.
        q_structured: what holding a response to a JSON schema adds to each of its tokens, s.
        q_drawn: what drawing a token adds to taking the likeliest one, s.
        rank: ranking a prompt's passages, s per token of the whole prompt.
        render: rendering and tokenising what selection leaves, s per token that stays.
        predictor: the length predictor's time over its own input; None without a predictor.
    """

    a: float
    b: float
    c: float
    p: float
    q: float
    evict_rate: float = 0.0
    evict_base: float = 0.0
    q_structured: float = 0.0
    q_drawn: float = 0.0
    rank: float = 0.0
    render: float = 0.0
    predictor: Quadratic | None = None

    def structured(self) -> TimeModel:
        """The model of requests whose response is held to a JSON schema.

        Every response token is chosen among those that the schema allows: the first in prefill, the
        others in decoding steps.
        """
        return self._with_each_token(self.q_structured)

    def drawn(self) -> TimeModel:
        """The model of requests whose tokens are drawn at a temperature above 0.

        Drawing adds nothing to it any more: its own ``drawn`` is the same.
        """
        return replace(self._with_each_token(self.q_drawn), q_drawn=0.0)

    def ranked(self) -> TimeModel:
        """The model of a request whose passages are ranked already."""
        return replace(self, rank=0.0)

    def slowed(self, prefill: float, decoding: float) -> TimeModel:
        """The model of a machine that takes so many times as long, now, as it was profiled."""
        return replace(
            self,
            a=self.a * prefill,
            b=self.b * prefill,
            c=self.c * prefill,
            rank=self.rank * prefill,
            render=self.render * prefill,
            p=self.p * decoding,
            q=self.q * decoding,
            evict_rate=self.evict_rate * decoding,
            evict_base=self.evict_base * decoding,
            q_structured=self.q_structured * decoding,
            q_drawn=self.q_drawn * decoding,
        )

    def _with_each_token(self, seconds: float) -> TimeModel:
        """Of response tokens that take so much longer; prefill makes the first."""
        return replace(self, c=self.c + seconds, q=self.q + seconds)

    def prefill(self, prompt_tokens: int, reused_tokens: int = 0) -> float:
        """Seconds to prefill N_x tokens, equation (4).

        The first ``reused_tokens`` of them are cached already. A token at position s takes time
        that grows linearly with s, 2 a s + b, so those that are left take the integral of that.
        """
        whole = Quadratic(self.a, self.b, self.c)
        return whole(prompt_tokens) - Quadratic(self.a, self.b, 0.0)(reused_tokens)

    def select(self, prompt_tokens: Tokens, kept_tokens: Tokens) -> Tokens:
        """Seconds to rank the passages of N_x tokens, and to make a prompt of those that stay.

        Of one prompt, or of an array of them.
        """
        return self.rank * prompt_tokens + self.render * kept_tokens

    def step(self, cache_tokens: int) -> float:
        """Seconds of one decoding step over a cache of N_kv tokens, equation (4)."""
        return self.p * cache_tokens + self.q

    def evict(self, prompt_tokens: int) -> float:
        """Seconds to score N_x prompt positions and compact the cache."""
        return self.evict_rate * prompt_tokens + self.evict_base

    def decode(self, kept_tokens: int, response_tokens: int) -> float:
        """Seconds of decoding response tokens 2..N over ``kept_tokens`` of the prompt's cache.

        The sum of equation (7) in closed form: step i = 1..N-1 sees kept + i - 1 cached tokens
        (equation 5).
        """
        steps = max(0, response_tokens - 1)
        return steps * self.step(kept_tokens) + self.p * steps * (steps - 1) / 2.0

    def evict_and_decode(self, prompt_tokens: int, kept_tokens: int, response_tokens: int) -> float:
        """Seconds from the end of prefill to token N; no eviction where everything is kept."""
        evict = self.evict(prompt_tokens) if kept_tokens < prompt_tokens else 0.0
        return evict + self.decode(kept_tokens, response_tokens)

    def predictor_excess(self, prompt_tokens: int, predictor_tokens: int) -> float:
        """delta = max(0, t_predict - t_prefill): the predictor runs beside prefill."""
        if self.predictor is None:
            return 0.0
        return max(0.0, self.predictor(predictor_tokens) - self.prefill(prompt_tokens))

    def longest_predictor_input(self, prompt_tokens: int, reused_tokens: int = 0) -> int:
        """Longest predictor input N_p whose time does not exceed the prefill's.

        Never above N_x, never below 1. Where even an empty input would exceed the prefill, no
        shortening hides the predictor: then only what grows with its input is held to the
        prefill's time, and the rest is excess that the plan counts.
        """
        if self.predictor is None:
            return prompt_tokens
        limit = self.prefill(prompt_tokens, reused_tokens)
        if self.predictor.c >= limit:
            limit += self.predictor.c
        if self.predictor(prompt_tokens) <= limit:
            return prompt_tokens
        return max(1, min(prompt_tokens, self.predictor.largest_within(limit)))
