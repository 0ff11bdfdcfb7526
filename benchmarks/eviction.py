# SPDX-License-Identifier: Apache-2.0
"""What an eviction costs beside the memory traffic that it cannot do without.

Whatever is kept has to be read and written once: the bound. Beside it, by turns in one run: the
eviction; what it took to multiply the window's queries with all keys at that moment, to sort, and
to gather into new memory; and what observing the window adds to the prefill's last chunk.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from machine import heading
from torch import Tensor

from timebill_ros.engine.attention import ObservationWindow
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.transformer_engine import EngineSettings, TransformerEngine
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings


def main() -> None:
    """Print a line for every prompt length and kept share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prompts", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--kept", type=float, nargs="+", default=[0.5, 0.1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    checkpoint = load_checkpoint(
        model_folder(Settings(model=options.model)), device="cpu", dtype="float32"
    )
    settings = EngineSettings(
        max_context=max(options.prompts) + 16, window=64, threads=options.threads
    )
    engine = TransformerEngine(checkpoint, settings)
    heads = checkpoint.model.config.num_attention_heads
    print(heading("Cost of an eviction"))
    print(f"{options.model}, {options.threads} threads, medians of {options.rounds} turns")
    print("| prompt | kept | bound | eviction | / bound | per token | before | last chunk |")
    print("|---|---|---|---|---|---|---|---|")
    for prompt_tokens in options.prompts:
        for share in options.kept:
            print(_line(engine, heads, prompt_tokens, share, options.rounds), flush=True)


@torch.inference_mode()
def _line(
    engine: TransformerEngine, heads: int, prompt_tokens: int, share: float, rounds: int
) -> str:
    kept = max(engine.window, round(share * prompt_tokens))
    # Rows that lie as far apart as kept ones do.
    spread = engine.cache.buffer[:, :, :, : prompt_tokens : prompt_tokens // kept]
    copy = torch.zeros_like(spread)
    observation = ObservationWindow(engine.cache.layers, engine.window)
    times: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        times[name].append(time.perf_counter() - start)

    tokens = torch.zeros(engine.chunk, dtype=torch.long)
    for _ in range(rounds + 1):
        engine.rehearse(prompt_tokens, prompt_tokens - engine.chunk, 9)
        timed("unobserved", lambda: engine.decoder.prefill(tokens, None))
        engine.rehearse(prompt_tokens, prompt_tokens - engine.chunk, 9)
        timed("observed", lambda: engine.decoder.prefill(tokens, observation))
        timed("before", lambda: _as_before(engine, prompt_tokens, kept, heads))
        engine.rehearse(prompt_tokens, prompt_tokens - engine.window, 9)
        engine.prefill_chunk()
        timed("eviction", lambda: engine.evict(kept))
        engine.rehearse(prompt_tokens, prompt_tokens - engine.window, 9)
        engine.prefill_chunk()
        timed("bound", lambda: copy.copy_(spread))
    middle = {name: statistics.median(seen[1:]) for name, seen in times.items()}
    ratios = [a / b for a, b in zip(times["eviction"][1:], times["bound"][1:], strict=True)]
    chunk = [a / b for a, b in zip(times["observed"][1:], times["unobserved"][1:], strict=True)]
    return (
        f"| {prompt_tokens} | {kept} | {middle['bound'] * 1e3:.2f} ms "
        f"| {middle['eviction'] * 1e3:.2f} ms | {statistics.median(ratios):.2f} "
        f"| {middle['eviction'] / prompt_tokens * 1e6:.2f} us | {middle['before'] * 1e3:.2f} ms "
        f"| {statistics.median(chunk) - 1.0:+.1%} |"
    )


def _as_before(engine: TransformerEngine, prompt_tokens: int, kept: int, heads: int) -> None:
    """Score by the window's queries, sort, gather: of rows that move nowhere, for measuring."""
    cache, window = engine.cache, engine.window
    queries = torch.randn(heads, window, cache.buffer.shape[-1])
    for layer in range(cache.layers):
        keys = cache.buffer[layer, 0, :, :prompt_tokens]
        scores = _scores(queries, keys)
        rows = scores.topk(kept - window, -1, sorted=False).indices.sort(-1).values
        flat = (rows + torch.arange(len(keys))[:, None] * cache.capacity).flatten()
        for half in cache.buffer[layer]:
            gathered = half.view(-1, half.shape[-1]).index_select(0, flat)
            half[:, : kept - window] = gathered.view(len(keys), kept - window, -1)


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    window = queries.shape[1]
    kv_heads, prompt_tokens, head_dim = keys.shape
    logits = torch.matmul(queries.reshape(kv_heads, -1, head_dim), keys.transpose(1, 2)).float()
    logits = logits.view(kv_heads, -1, window, prompt_tokens)
    attention = logits.softmax(-1)[..., : prompt_tokens - window].mean((1, 2))
    return torch.nn.functional.avg_pool1d(attention, 5, stride=1, padding=2)


if __name__ == "__main__":
    main()
