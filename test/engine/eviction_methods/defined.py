# SPDX-License-Identifier: Apache-2.0
"""Every eviction method as its paper defines it: loops over single tokens, dense attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

KERNEL = 5


@dataclass(frozen=True)
class DenseLayer:
    """One layer after a forward over the whole prompt, in double precision.

    Attributes:
        index: of the layer.
        attention: [H, N_x, N_x].
        keys: [KV, N_x, D], rotated.
        values: [KV, N_x, D].
        projection: W_o, [h, H D].
    """

    index: int
    attention: Tensor
    keys: Tensor
    values: Tensor
    projection: Tensor


def dense_layers(stock: PreTrainedModel, prompt: list[int]) -> list[DenseLayer]:
    """What transformers' own forward over ``prompt`` leaves in every layer."""
    cache = DynamicCache()
    with torch.no_grad():
        out = stock(torch.tensor([prompt]), past_key_values=cache, output_attentions=True)
    return [
        DenseLayer(
            index,
            attention[0].double(),
            cache.layers[index].keys[0].double(),
            cache.layers[index].values[0].double(),
            layer.self_attn.o_proj.weight.detach().double(),
        )
        for index, (attention, layer) in enumerate(
            zip(out.attentions, stock.model.layers, strict=True)
        )
    ]


def attention_scores(layer: DenseLayer, window: int) -> Tensor:
    """SnapKV's scores, [KV, N_x - w]."""
    kv_heads, prompt, _ = layer.keys.shape
    group = len(layer.attention) // kv_heads
    half = KERNEL // 2
    scores = torch.zeros(kv_heads, prompt - window, dtype=torch.float64)
    for head in range(kv_heads):
        seen = layer.attention[head * group : (head + 1) * group, -window:, : prompt - window]
        mean = seen.mean((0, 1))
        for at in range(prompt - window):
            scores[head, at] = mean[max(0, at - half) : at + half + 1].sum() / KERNEL
    return scores


def value_norms(layer: DenseLayer, window: int) -> Tensor:
    """The mean of ||v W_o||_1 over a group's query heads, [KV, N_x - w]."""
    kv_heads, prompt, head_dim = layer.values.shape
    group = len(layer.attention) // kv_heads
    norms = torch.zeros(kv_heads, prompt - window, dtype=torch.float64)
    for head in range(kv_heads * group):
        columns = layer.projection[:, head * head_dim : (head + 1) * head_dim]
        for at in range(prompt - window):
            added = columns @ layer.values[head // group, at]
            norms[head // group, at] += added.abs().sum() / group
    return norms


def _best(scores: Tensor, count: int, among: list[int]) -> list[int]:
    return sorted(among, key=lambda at: -float(scores[at]))[:count]


def snapkv(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    scores = attention_scores(layer, window)
    return [_best(row, count, list(range(len(row)))) for row in scores]


def chunkkv(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    tokens = attention_scores(layer, window).sum(0)
    chunks = [list(range(len(tokens)))[at : at + 10] for at in range(0, len(tokens), 10)]
    chunks.sort(key=lambda chunk: -float(tokens[chunk].mean()))
    kept: list[int] = []
    for chunk in chunks:
        kept += _best(tokens, count - len(kept), chunk)
    return [kept] * len(layer.keys)


def criticalkv(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    attention = attention_scores(layer, window)
    product = (attention + 1e-4) * value_norms(layer, window)
    kept = []
    for first_stage, second_stage in zip(attention, product, strict=True):
        first = _best(first_stage, count // 2, list(range(len(first_stage))))
        others = [at for at in range(len(first_stage)) if at not in first]
        kept.append(first + _best(second_stage, count - len(first), others))
    return kept


def key_norm(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    evictable = list(range(layer.keys.shape[1] - window))
    return [_best(-(head**2).sum(-1), count, evictable) for head in layer.keys]


def streaming_llm(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    evictable = layer.keys.shape[1] - window
    sinks = list(range(min(4, count)))
    recent = list(range(evictable - (count - len(sinks)), evictable))
    return [sinks + recent] * len(layer.keys)


def random(layer: DenseLayer, window: int, count: int) -> list[list[int]]:
    shape = (len(layer.keys), layer.keys.shape[1] - window)
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(layer.index))
    return [_best(row, count, list(range(shape[1]))) for row in drawn]


DEFINITIONS: dict[str, Callable[[DenseLayer, int, int], list[list[int]]]] = {
    "snapkv": snapkv,
    "chunkkv": chunkkv,
    "criticalkv": criticalkv,
    "key_norm": key_norm,
    "streaming_llm": streaming_llm,
    "random": random,
}
"""Positions before the window that each head keeps, [KV, count], in any order."""


def kept_positions(name: str, layer: DenseLayer, window: int, kept_tokens: int) -> Tensor:
    """Positions of one layer that stay, the window among them, [KV, kept_tokens], ascending."""
    prompt = layer.keys.shape[1]
    kept = DEFINITIONS[name](layer, window, kept_tokens - window)
    return torch.tensor([sorted(head) + list(range(prompt - window, prompt)) for head in kept])
