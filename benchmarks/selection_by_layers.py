# SPDX-License-Identifier: Apache-2.0
"""Whether a model's first layers should choose which tokens of a prompt stay, by time.

FastKV (arXiv 2502.01068): the whole prompt runs through the first r of L layers, then only the
tokens that its end attends to in layer r go on, at their own positions; to keep the share rho takes
r / L + (1 - r / L) rho of a prefill. GemFilter (arXiv 2409.17422): these tokens are prefilled anew
as a prompt of their own, r / L + rho of a prefill. Either competes with what takes as long without
asking the model: the prompt's end alone, or random passages. Measured is how many tokens of the
answer to the whole prompt stay the model's first choice.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import heading
from torch import Tensor

from timebill_ros.bench.cases import Case, read_cases
from timebill_ros.bench.intervals import interval_of_mean
from timebill_ros.engine.attention import AttentionShape, grouped_attention, observed_attention
from timebill_ros.engine.checkpoint import Checkpoint, load_checkpoint
from timebill_ros.engine.decoder import layer_weights, rotary_tables
from timebill_ros.engine.eviction_methods import keep_highest
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.selection.methods import make_selection_method
from timebill_ros.selection.selector import Selector

WINDOW, HEAD, KERNEL = 64, 16, 5  # as the node's defaults
BY_TEXT = ("recent", "random")
BY_LAYERS = ("fastkv", "gemfilter")
COLUMNS = ("case", "method", "layers", "share", "agreement")
Past = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [KV, n, D] of the tokens that each layer has run."""
Look = Callable[[int, Tensor, Tensor, Tensor], None]
"""Told a layer's index, the queries [H, n, D] of the tokens that run, and all keys and values."""


class Layers:
    """Runs any of a model's layers on any tokens, at any positions."""

    def __init__(self, checkpoint: Checkpoint, longest: int) -> None:
        model = checkpoint.model
        self.shape = AttentionShape.of(model)
        self._model = model.model
        self._head = model.lm_head
        self._eps: float = model.config.rms_norm_eps
        self._weights = [
            layer_weights(layer, self.shape.heads, self.shape.kv_heads)
            for layer in self._model.layers
        ]
        self._cos, self._sin = rotary_tables(model, longest)

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Embeddings [n, h]."""
        embedded: Tensor = self._model.embed_tokens(torch.tensor(tokens))
        return embedded

    def logits(self, x: Tensor) -> Tensor:
        """Logits [n, V] of what the last layer made of tokens."""
        out: Tensor = self._head(self._normed(x, self._model.norm.weight))
        return out

    def run(
        self, x: Tensor, positions: Tensor, past: Past, layers: range, look: Look | None = None
    ) -> Tensor:
        """Run tokens [n, h] behind ``past``, which grows by them; what the layers make of them."""
        heads, kv_heads, size = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        for index in layers:
            layer = self._weights[index]
            qkv = layer.qkv(self._normed(x, layer.input_norm)).view(len(x), -1, size)
            both = qkv[:, : heads + kv_heads]
            both = both * cos + both.roll(size // 2, -1) * sin
            query, key = both[:, :heads].transpose(0, 1), both[:, heads:].transpose(0, 1)
            value = qkv[:, heads + kv_heads :].transpose(0, 1)
            if index in past:
                key = torch.cat((past[index][0], key), 1)
                value = torch.cat((past[index][1], value), 1)
            past[index] = key, value
            out = grouped_attention(query[None], key[None], value[None], size**-0.5)[0]
            if look is not None:
                look(index, query, key, value)
            x = x + layer.out(out.transpose(0, 1).reshape(len(x), -1))
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._eps)


def _looked_at(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The mean of the window's attention and of the last token's, smoothed as SnapKV's."""
    total = torch.zeros(key.shape[1] - WINDOW)
    for asking in (WINDOW, 1):
        seen = observed_attention(query[:, -asking:], key, value, query.shape[-1] ** -0.5)[1]
        seen = seen.mean(0)[: len(total)]
        total += seen / seen.sum()
    return F.avg_pool1d(total[None], KERNEL, 1, KERNEL // 2)[0]


class Trial:
    """One prompt, its answer, and how much of it stays after each method."""

    def __init__(self, engine: TransformerEngine, layers: Layers, case: Case, most: int) -> None:
        self._engine, self._layers, self._case = engine, layers, case
        request = engine.prepare(case.conversation)
        engine.begin(request, most)
        while not engine.prefill_chunk():
            pass
        while engine.finish_reason is None:
            engine.step()
        self.prompt = list(request.prompt_ids)
        self.answer = list(engine.response_ids)
        engine.abort()

    def rows(
        self, methods: Sequence[str], first: Sequence[int], shares: Sequence[float]
    ) -> Iterator[tuple[object, ...]]:
        """A row for every method, number of first layers and share, as ``COLUMNS`` names them."""
        total = self._layers.shape.layers
        texts = {
            _taking(method, r / total, rho) for method in methods for r in first for rho in shares
        }
        for name in BY_TEXT:
            selector = Selector(make_selection_method(name), WINDOW, HEAD)
            ranked = selector.rank(self._case.conversation.texts, len(self.prompt))
            for share in sorted(texts | set(shares)):
                shorter = self._case.conversation.of_texts(ranked.select(share))
                tokens = list(self._engine.prepare(shorter).prompt_ids)
                yield self._case.id, name, 0, share, self._after(tokens)
        past: Past = {}
        looks = {r - 1: torch.empty(0) for r in first}
        states, done, x = {}, 0, self._layers.embed(self.prompt)

        def look(layer: int, query: Tensor, key: Tensor, value: Tensor) -> None:
            if layer in looks:
                looks[layer] = _looked_at(query, key, value)

        for r in sorted(first):
            x = self._layers.run(x, torch.arange(len(x)), past, range(done, r), look)
            states[r], done = x, r
        for r in first:
            for rho in shares:
                kept = _kept(looks[r - 1], len(self.prompt), rho)
                for method in methods:
                    if method == "fastkv":
                        agreement = self._going_on(states[r], past, kept, r)
                    else:
                        agreement = self._after([self.prompt[place] for place in kept.tolist()])
                    yield self._case.id, method, r, rho, agreement

    def _after(self, tokens: Sequence[int]) -> float:
        """Agreement after an ordinary prefill of these tokens."""
        past: Past = {}
        every = range(self._layers.shape.layers)
        x = self._layers.embed(tokens[:-1])
        self._layers.run(x, torch.arange(len(x)), past, every)
        return self._agreement(past, len(x))

    def _going_on(self, states: Tensor, past: Past, kept: Tensor, first: int) -> float:
        """Agreement where all tokens ran ``first`` layers and those at ``kept`` run the others."""
        before = kept[:-1]  # the last one is run with the answer
        own = {layer: tuple(part[:, before] for part in past[layer]) for layer in range(first)}
        rest = range(first, self._layers.shape.layers)
        self._layers.run(states[before], before, own, rest)  # type: ignore[arg-type]
        return self._agreement(own, len(self.prompt) - 1)  # type: ignore[arg-type]

    def _agreement(self, past: Past, position: int) -> float:
        """Share of the answer's tokens that are the first choice behind ``past``."""
        tokens = [self.prompt[-1], *self.answer[:-1]]
        positions = torch.arange(position, position + len(tokens))
        every = range(self._layers.shape.layers)
        x = self._layers.run(self._layers.embed(tokens), positions, past, every)
        best = self._layers.logits(x).argmax(-1)
        return float((best == torch.tensor(self.answer)).float().mean())


def _kept(scores: Tensor, total: int, share: float) -> Tensor:
    """Positions that stay: head and window always, of the others the best."""
    scores = scores.clone()
    scores[:HEAD] = torch.inf
    count = max(HEAD, math.ceil(share * total) - WINDOW)
    return torch.cat((keep_highest(scores[None], count)[0], torch.arange(total - WINDOW, total)))


def _taking(method: str, early: float, rho: float) -> float:
    """Share of a prefill that a method takes where ``early`` of it is that of the first layers."""
    again = early * rho if method == "fastkv" else 0.0
    return round(min(1.0, early + rho - again), 4)


def drawn(engine: TransformerEngine, arguments: argparse.Namespace) -> Iterator[Case]:
    """Prompts of the wanted length, in the order of ``timebill_ros measure-quality``."""
    cases = read_cases(arguments.prompts, scored=False)
    shortest, longest = arguments.prompt_tokens
    found = 0
    for place in np.random.default_rng(0).permutation(len(cases)):
        tokens = engine.prepare(cases[place].conversation).prompt_tokens
        if shortest <= tokens <= longest and found < arguments.jobs:
            found += 1
            yield cases[place]


def table(rows: Sequence[Sequence[str]], layers: int) -> Iterator[str]:
    """Markdown: each choice by layers beside what takes as long, with the differences."""
    by: dict[tuple[str, int, float], dict[str, float]] = defaultdict(dict)
    for case, method, r, share, agreement in rows:
        by[method, int(r), float(share)][case] = float(agreement)
    yield f"{len({row[0] for row in rows})} prompts; agreement and its standard error; in brackets"
    yield "the difference to the text method that takes as long, and its interval of 95 %"
    yield ""
    yield "| method | first layers | kept | of a prefill's time | agreement | the end | random |"
    yield "|---|---|---|---|---|---|---|"
    for (method, first, rho), own in sorted(by.items()):
        if not first:
            yield f"| {method} | - | {rho:g} | {rho:.2f} | {mean_of(own)} | | |"
            continue
        took = _taking(method, first / layers, rho)
        cells = " | ".join(against(own, by[name, 0, took]) for name in BY_TEXT)
        yield f"| {method} | {first} | {rho:g} | {took:.2f} | {mean_of(own)} | {cells} |"


def mean_of(own: dict[str, float]) -> str:
    """The mean over cases and its standard error."""
    values = np.array(list(own.values()))
    error = values.std(ddof=1) / math.sqrt(values.size) if values.size > 1 else 0.0
    return f"{values.mean():.3f} ± {error:.3f}"


def against(own: dict[str, float], other: dict[str, float]) -> str:
    """The other mean over the same cases, the difference to it, and its interval of 95 %."""
    gained = np.array([own[case] - other[case] for case in own])
    low, high = interval_of_mean(gained)
    mean = np.mean([other[case] for case in own])
    return f"{mean:.3f} [{gained.mean():+.3f}, {low:+.3f} to {high:+.3f}]"


def parser_of(description: str | None, jobs: int) -> argparse.ArgumentParser:
    """Options that a measurement on real prompts takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, help="of Llama's family")
    parser.add_argument("--prompts", type=Path, help="JSON lines with `prompt`")
    parser.add_argument("--prompt-tokens", type=int, nargs=2, default=(600, 1600))
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="gone on with where it was left")
    return parser


def measured(
    arguments: argparse.Namespace,
    columns: Sequence[str],
    rows_of: Callable[[Layers, Trial, str], Iterator[tuple[object, ...]]],
) -> tuple[list[list[str]], Layers]:
    """The rows of every prompt, those that the CSV file does not hold yet measured now."""
    torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(arguments.model, dtype="float32")
    longest = arguments.prompt_tokens[1] + arguments.max_tokens + WINDOW
    settings = EngineSettings(max_context=longest, window=WINDOW, threads=arguments.threads)
    engine, layers = TransformerEngine(checkpoint, settings), Layers(checkpoint, longest)
    rows: list[list[str]] = []
    if arguments.csv.exists():
        rows = list(csv.reader(arguments.csv.open(newline="")))[1:]
    done = {row[0] for row in rows}
    with arguments.csv.open("a", newline="") as file, torch.inference_mode():
        writer = csv.writer(file)
        if not rows:
            writer.writerow(columns)
        for case in drawn(engine, arguments):
            if case.id not in done:
                trial = Trial(engine, layers, case, arguments.max_tokens)
                made = [list(map(str, row)) for row in rows_of(layers, trial, case.id)]
                writer.writerows(made)
                file.flush()
                rows += made
    return rows, layers


def main() -> None:
    """Measure what the CSV file does not hold yet, and print the table."""
    parser = parser_of(__doc__, jobs=16)
    parser.add_argument("--methods", nargs="+", default=BY_LAYERS, choices=BY_LAYERS)
    parser.add_argument("--first", type=int, nargs="+", default=[5, 10], help="layers")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    arguments = parser.parse_args()
    if not (arguments.model and arguments.prompts and arguments.csv):
        print("skipped: needs --model, --prompts and --csv")
        return

    def rows_of(_layers: Layers, trial: Trial, _case: str) -> Iterator[tuple[object, ...]]:
        return trial.rows(arguments.methods, arguments.first, arguments.shares)

    rows, layers = measured(arguments, COLUMNS, rows_of)
    print(heading("Selection by layers"))
    print("\n".join(table(rows, layers.shape.layers)))


if __name__ == "__main__":
    main()
