# SPDX-License-Identifier: Apache-2.0
"""Which correction follows a server's drift best, in virtual time.

    python benchmarks/served_drift.py

A server was profiled while nobody else used it. Then another client comes and goes: while it is
there, tokens take 1.9 times as long, and one request in two waits for a place in the batch first.
After each request the model of the next one is corrected: not at all, by a slowdown factor with
forgetting (``pace_tracker.Slowdown``), or by recursive least squares with forgetting over
(1, N_x) and (1,). Told are the mean errors of the next request's times, and how many requests take
longer than their plan's worst case under ``time_risk`` 0.05.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from timebill_ros.budget.time_model import TimeModel
from timebill_ros.runtime.pace_tracker import PaceTracker, Slowdown

PROFILE = TimeModel(a=0.0, b=1.2e-4, c=0.030, p=0.0, q=0.011)  # one GPU, some billion weights
BUSY_STEP, BUSY_PREFILL, QUEUE = 1.9, 1.5, 0.15  # s of the longest wait for a place
TIME_RISK = 0.05


class Correction(Protocol):
    """The model of the next request, from those that were."""

    def model(self) -> TimeModel:
        """What is expected now."""

    def observe(self, request: Request) -> None:
        """Take in what a request took."""


@dataclass(frozen=True)
class Request:
    """One request's lengths, and what the server took."""

    prompt: int
    tokens: int
    first: float
    decode: float


class Uncorrected:
    """The profile, for ever."""

    def model(self) -> TimeModel:
        """What is expected now."""
        return PROFILE

    def observe(self, request: Request) -> None:
        """Nothing is learnt."""


class Factors:
    """The runtime's own slowdown state."""

    def __init__(self) -> None:
        self._slowdown = Slowdown()

    def model(self) -> TimeModel:
        """What is expected now."""
        return self._slowdown.corrected(PROFILE)

    def observe(self, request: Request) -> None:
        """Take in what a request took."""
        model = self.model()
        self._slowdown.observe_prefill(request.first, model.prefill(request.prompt))
        expected = model.decode(request.prompt, request.tokens)
        self._slowdown.observe_decoding(request.decode, expected)


class LeastSquares:
    """Recursive least squares with forgetting, begun at the profile."""

    def __init__(self, forgetting: float) -> None:
        self._forgetting = forgetting
        self._first = (np.array([PROFILE.c, PROFILE.b * 1e3]), np.eye(2))
        self._step = (np.array([PROFILE.q]), np.eye(1))

    def model(self) -> TimeModel:
        """What is expected now."""
        c, b = np.maximum(self._first[0], 1e-6)
        return TimeModel(a=0.0, b=b / 1e3, c=c, p=0.0, q=max(1e-6, self._step[0][0]))

    def observe(self, request: Request) -> None:
        """Take in what a request took."""
        inputs = np.array([1.0, request.prompt / 1e3])
        self._first = self._updated(*self._first, inputs, request.first)
        per_step = request.decode / (request.tokens - 1)
        self._step = self._updated(*self._step, np.array([1.0]), per_step)

    def _updated(
        self,
        weights: NDArray[np.float64],
        spread: NDArray[np.float64],
        inputs: NDArray[np.float64],
        measured: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gain = spread @ inputs / (self._forgetting + inputs @ spread @ inputs)
        weights = weights + gain * (measured - inputs @ weights)
        return weights, (spread - np.outer(gain, inputs @ spread)) / self._forgetting


def requests(rng: np.random.Generator, number: int, *, competing: bool) -> Iterator[Request]:
    """Requests with log-uniform prompts; the other client comes and goes every 60 on average."""
    busy = False
    for _ in range(number):
        busy = competing and (not busy if rng.random() < 1 / 60 else busy)
        prompt = int(np.exp(rng.uniform(np.log(64), np.log(4096))))
        tokens = int(rng.integers(8, 200))
        noise = rng.lognormal(0.0, 0.08, 2)
        waits = QUEUE * rng.random() if busy and rng.random() < 0.5 else 0.0
        first = PROFILE.prefill(prompt) * noise[0] * (BUSY_PREFILL if busy else 1.0) + waits
        decode = PROFILE.decode(prompt, tokens) * noise[1] * (BUSY_STEP if busy else 1.0)
        yield Request(prompt, tokens, first, decode)


def run(correction: Correction, seen: Iterator[Request]) -> tuple[float, float, float, float]:
    """Mean errors of first token, decoding and both; share of requests beyond their worst case."""
    pace, errors, beyond = PaceTracker(), [], []
    for request in seen:
        model = correction.model()
        first, decode = model.prefill(request.prompt), model.decode(request.prompt, request.tokens)
        took = request.first + request.decode
        errors.append(
            (
                abs(first - request.first) / request.first,
                abs(decode - request.decode) / request.decode,
                abs(first + decode - took) / took,
            )
        )
        beyond.append(request.decode > pace.pace(TIME_RISK).worst(decode))
        pace.observe(request.decode, decode)
        correction.observe(request)
    means = np.mean(errors, axis=0)
    return float(means[0]), float(means[1]), float(means[2]), float(np.mean(beyond))


CORRECTIONS: dict[str, Callable[[], Correction]] = {
    "none": Uncorrected,
    "slowdown factors": Factors,
    **{f"least squares, {lam}": (lambda lam=lam: LeastSquares(lam)) for lam in (0.8, 0.9, 0.97)},
}


def main() -> None:
    """Print a row for each correction, without and with the other client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    header = f"{'':22}{'first':>9}{'decoding':>10}{'request':>9}{'beyond':>9}"
    for competing in (False, True):
        print(f"\n{'with' if competing else 'without'} another client\n{header}")
        for name, make in CORRECTIONS.items():
            rng = np.random.default_rng(options.seed)
            figures = run(make(), requests(rng, options.requests, competing=competing))
            first, decode, both, beyond = (f"{figure:.1%}" for figure in figures)
            print(f"{name:22}{first:>9}{decode:>10}{both:>9}{beyond:>9}")


if __name__ == "__main__":
    main()
