# SPDX-License-Identifier: Apache-2.0
"""Measuring what drawing a token adds to taking the likeliest one."""

from __future__ import annotations

import statistics
import time

import torch

from timebill_ros.engine.sampling import Sampler, Sampling

_TOKENS = 32
_LEAST = 1e-7  # s; by noise the difference may come out as none
_DRAWN = Sampling(temperature=1.0, top_p=0.9)


def time_drawing(vocabulary: int, device: torch.device) -> float:
    """Seconds by which a drawn token takes longer than a greedy one."""
    logits = torch.randn(vocabulary, device=device)
    return max(_LEAST, _median(_DRAWN, logits) - _median(Sampling(), logits))


def _median(sampling: Sampling, logits: torch.Tensor) -> float:
    sampler = Sampler(sampling)
    sampler.begin()
    times = []
    for _ in range(_TOKENS):
        start = time.perf_counter_ns()
        sampler.pick(logits)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) * 1e-9
