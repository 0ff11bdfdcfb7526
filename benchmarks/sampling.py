# SPDX-License-Identifier: Apache-2.0
"""What choosing a token costs, over vocabularies up to the largest in use."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from machine import heading

from timebill_ros.engine.sampling import Sampler, Sampling

_WAYS = {
    "greedy": Sampling(),
    "temperature": Sampling(temperature=1.0),
    "top_p 0.95": Sampling(temperature=0.8, top_p=0.95),
    "top_p 0.5": Sampling(temperature=0.8, top_p=0.5),
}


def main() -> None:
    """Print percentiles of the time per token, in us, for logits of two shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1_800, 49_152, 152_064])
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(heading("Sampling"))
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads; us a token")
    print(f"{'words':>8}  {'logits':<8}{'way':<14}{'p50':>8}{'p99':>8}   (goal: <= 1,000)")
    for vocabulary in arguments.vocabulary:
        generator = torch.Generator().manual_seed(vocabulary)
        noise = torch.randn(vocabulary, generator=generator)
        # A model that is sure of a few tokens, and one that knows nothing.
        for shape, logits in (("peaked", noise * 4.0), ("flat", noise * 0.1)):
            for way, sampling in _WAYS.items():
                p50, p99 = percentiles(sampling, logits.to(arguments.device), arguments.tokens)
                print(f"{vocabulary:>8,}  {shape:<8}{way:<14}{p50:>8.0f}{p99:>8.0f}")


def percentiles(sampling: Sampling, logits: torch.Tensor, tokens: int) -> tuple[float, float]:
    """Median and 99th percentile of the time per token, in us."""
    sampler = Sampler(sampling)
    sampler.begin()
    times = []
    for _ in range(tokens):
        start = time.perf_counter_ns()
        sampler.pick(logits)
        times.append((time.perf_counter_ns() - start) * 1e-3)
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return float(p50), float(p99)


if __name__ == "__main__":
    main()
