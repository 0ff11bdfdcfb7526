# SPDX-License-Identifier: Apache-2.0
"""Speed and quality of every way to keep the weights: steps, a prefill's chunk, and a text.

The text is gone through token by token, as given: how likely each next token is held to be
(perplexity), and how often the likeliest one is the one that float32 weights have (agreement).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from pathlib import Path

from machine import heading

from timebill_ros.runtime.serving_threads import wait_passively

wait_passively()  # before torch is imported

import torch  # noqa: E402

from timebill_ros.engine.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from timebill_ros.engine.projection import KINDS, WeightKinds  # noqa: E402
from timebill_ros.engine.protocol import PreparedRequest  # noqa: E402
from timebill_ros.engine.settings import EngineSettings  # noqa: E402
from timebill_ros.engine.transformer_engine import TransformerEngine  # noqa: E402
from timebill_ros.runtime.models import model_folder  # noqa: E402
from timebill_ros.runtime.settings import Settings  # noqa: E402

_TEXT = Path(__file__).parents[1] / "docs" / "deadlines.md"
_HEAD = 16  # tokens that nothing is asked of


def main() -> None:
    """Print a row per kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_folder(Settings()))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cached", type=int, default=1000, help="tokens in the cache")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--text", type=Path, default=_TEXT)
    parser.add_argument("--tokens", type=int, default=400, help="of the text")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.model)
    engines = {kind: make(checkpoint, kind, arguments) for kind in KINDS}
    print(heading("Weights"))
    print(f"torch {torch.__version__}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    steps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    chunks: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.turns):
        for kind, engine in engines.items():
            chunks[kind].append(timed_chunk(engine))
            steps[kind].append(timed_step(engine, arguments.cached))
    bound = read_bound(checkpoint, engines["float32"], arguments.cached)
    print(f"reading the float32 weights and the cache once takes {bound * 1e3:.1f} ms")
    text = checkpoint.tokenizer(arguments.text.read_text(encoding="utf-8"))["input_ids"]
    expected, _ = gone_through(engines["float32"], text[: arguments.tokens])
    print(f"{'weights':<10}{'step':>9}{'faster':>8}{'chunk':>9}{'faster':>8}", end="")
    print(f"{'perplexity':>12}{'agreement':>11}")
    for kind, engine in engines.items():
        chosen, perplexity = gone_through(engine, text[: arguments.tokens])
        agreement = statistics.fmean(a == b for a, b in zip(chosen, expected, strict=True))
        step, chunk = statistics.median(steps[kind]), statistics.median(chunks[kind])
        print(
            f"{kind:<10}{step * 1e3:>9.1f}{statistics.median(steps['float32']) / step:>8.2f}"
            f"{chunk * 1e3:>9.1f}{statistics.median(chunks['float32']) / chunk:>8.2f}"
            f"{perplexity:>12.3f}{agreement:>11.1%}"
        )


def make(checkpoint: Checkpoint, kind: str, arguments: argparse.Namespace) -> TransformerEngine:
    """An engine that keeps its weights so."""
    context = max(arguments.cached, arguments.tokens, 512) + 32
    settings = EngineSettings(
        max_context=context, threads=arguments.threads, weights=WeightKinds(kind, kind)
    )
    return TransformerEngine(checkpoint, settings)


def timed_step(engine: TransformerEngine, cached: int) -> float:
    """Median seconds of 8 decoding steps."""
    engine.rehearse(cached, cached - 1, 16)
    engine.prefill_chunk()
    times = []
    for _ in range(8):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def timed_chunk(engine: TransformerEngine) -> float:
    """Seconds of a first chunk of 512 tokens."""
    engine.rehearse(512, 0, 2)
    start = time.perf_counter()
    engine.prefill_chunk()
    return time.perf_counter() - start


def read_bound(checkpoint: Checkpoint, engine: TransformerEngine, cached: int) -> float:
    """Seconds to read what a float32 step reads, at the rate that a sum is read at."""
    model = checkpoint.model
    layers = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    rows = engine.cache.buffer[:, :, :, :cached]
    numbers = sum(weight.numel() for weight in layers) + rows.numel()
    sample = torch.ones(64_000_000)
    with torch.inference_mode():
        times = []
        for _ in range(10):
            start = time.perf_counter()
            sample.sum()
            times.append(time.perf_counter() - start)
    return statistics.median(times) * numbers / sample.numel()


def gone_through(engine: TransformerEngine, text: list[int]) -> tuple[list[int], float]:
    """The likeliest tokens along a text, and the perplexity of its own."""
    engine.begin(PreparedRequest(text[:_HEAD]), len(text), ignore_eos=True)
    chosen, surprise = [], 0.0
    with torch.inference_mode():
        logits = engine.decoder.prefill(torch.tensor(text[:_HEAD]), None)
        for token in text[_HEAD:]:
            chosen.append(int(logits.argmax()))
            surprise -= float(logits.float().log_softmax(-1)[token])
            logits = engine.decoder.step(token)
    engine.abort()
    return chosen, math.exp(surprise / len(chosen))


if __name__ == "__main__":
    main()
