# SPDX-License-Identifier: Apache-2.0
"""How well the time model predicts held-out points, and whole requests that it never saw."""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from machine import heading

from timebill_ros.budget.fit import fit_time_model
from timebill_ros.budget.time_model import TimeModel
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import PreparedRequest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings


def main() -> None:
    """Profile a checkpoint, then run random requests and compare their times with the model's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=model_folder(Settings()), help="checkpoint directory"
    )
    parser.add_argument("--max-context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of profiling")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument(
        "--prefills", type=int, nargs="*", default=[200, 900, 2200, 5000, 8000], metavar="TOKENS"
    )
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.model, device=arguments.device)
    settings = EngineSettings(max_context=arguments.max_context, threads=arguments.threads)
    engine = TransformerEngine(checkpoint, settings)
    start = time.perf_counter()
    fit = fit_time_model(engine.measure(arguments.limit, lambda *_: None))
    seconds = time.perf_counter() - start
    model = fit.model
    print(heading("Time model"))
    print(
        f"torch {torch.__version__}, {checkpoint.device}, {checkpoint.dtype}, "
        f"{arguments.threads} threads; profiled in {seconds:.1f} s"
    )
    print(f"prefill  {model.a:.3e} N^2 + {model.b:.3e} N + {model.c:.3e} s")
    print(f"step     {model.p:.3e} N_kv + {model.q:.3e} s")
    print(f"evict    {model.evict_rate:.3e} N + {model.evict_base:.3e} s")
    print("mean absolute percentage error on held-out points:")
    print(f"prefill {fit.prefill_mape:.1%}   step {fit.step_mape:.1%}   evict {fit.evict_mape:.1%}")
    if fit.disturbance:
        print(f"disturbed: {fit.disturbance}")
    print(f"prefill measured up to {fit.longest_prefill} tokens")
    compare_stages(engine, model, [n for n in arguments.prefills if n < arguments.max_context])
    if arguments.requests:
        compare_requests(engine, model, arguments.requests)


def compare_stages(engine: TransformerEngine, model: TimeModel, prefills: list[int]) -> None:
    """Time whole prefills, and steps at random cache lengths; print the model's errors."""
    rng = random.Random(1)
    prefill_errors = []
    for tokens in rng.sample(prefills, len(prefills)):
        seconds = timed_prefill(engine, tokens)
        prefill_errors.append(model.prefill(tokens) / seconds - 1.0)
        print(f"prefill of {tokens:>5} tokens {seconds:8.3f} s, error {prefill_errors[-1]:+.1%}")
    step_errors = []
    for _ in range(20):
        cached = round(math.exp(rng.uniform(math.log(32), math.log(engine.max_context - 32))))
        step_errors.append(model.step(cached + 8) / timed_step(engine, cached, 16) - 1.0)
    for stage, errors in (("prefills", prefill_errors), ("steps", step_errors)):
        if errors:
            print(f"{len(errors)} {stage}: mean absolute error {np.mean(np.abs(errors)):.1%}")


def timed_prefill(engine: TransformerEngine, tokens: int) -> float:
    """Seconds of a whole prefill."""
    engine.begin(PreparedRequest([0] * tokens), 1, ignore_eos=True)
    start = time.perf_counter()
    while not engine.prefill_chunk():
        pass
    return time.perf_counter() - start


def timed_step(engine: TransformerEngine, cached: int, steps: int) -> float:
    """Median seconds of decoding steps from so many cached tokens on."""
    engine.rehearse(cached, cached - 1, steps + 1)
    engine.prefill_chunk()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare_requests(engine: TransformerEngine, model: TimeModel, count: int) -> None:
    """Run random requests; print how far their times are from the model's."""
    rng = random.Random(0)
    ratios = []
    for _ in range(count):
        response = rng.randint(8, 256)
        prompt = rng.randint(engine.window, engine.max_context - response)
        kept = max(engine.window, round(prompt * (1 - rng.choice([0.0, rng.uniform(0.0, 0.95)]))))
        expected = model.prefill(prompt) + model.evict_and_decode(prompt, kept, response)
        ratios.append(run(engine, prompt, kept, response) / expected)
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    error = np.mean(np.abs(np.array(ratios) - 1.0))
    print(f"{count} requests of random N_x, alpha and N, measured / predicted time:")
    print(f"p5 {low:.2f}   p50 {median:.2f}   p95 {high:.2f}   mean absolute error {error:.1%}")


def run(engine: TransformerEngine, prompt: int, kept: int, response: int) -> float:
    """Seconds of one whole request."""
    start = time.perf_counter()
    engine.begin(PreparedRequest([0] * prompt), response, ignore_eos=True)
    while not engine.prefill_chunk():
        pass
    engine.evict(kept)
    while engine.finish_reason is None:
        engine.step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
