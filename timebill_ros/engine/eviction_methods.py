# SPDX-License-Identifier: Apache-2.0
"""Eviction methods: which tokens of a prompt stay in the cache when only so many may.

SnapKV keeps the tokens that the end of the prompt attends to, ChunkKV whole passages of them, and
CriticalKV weighs their attention by their values. The others never look at what the prompt asks
for: they are baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from timebill_ros.budget.errors import SettingError
from timebill_ros.engine.errors import UnsupportedModel


@dataclass(frozen=True)
class LayerPrompt:
    """A prefilled prompt in one layer.

    Attributes:
        layer: index of the layer.
        attention: mean attention of the observation window to the tokens before it, see
            ``attention.observed_attention``, [KV, N_x - w].
        keys: rotated keys of the whole prompt, [KV, N_x, D].
        values: its values, [KV, N_x, D].
    """

    layer: int
    attention: Tensor
    keys: Tensor
    values: Tensor

    @property
    def evictable(self) -> int:
        """Tokens before the observation window, N_x - w: all that a method chooses from."""
        return self.attention.shape[1]


class EvictionMethod(Protocol):
    """Chooses, for every layer and key head, the prompt tokens that stay.

    Every head keeps as many tokens, since the cache has one length; the observation window stays
    whatever the method. What is kept of fewer tokens is a part of what is kept of more, so that
    evicting in steps ends where evicting at once does.
    """

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Score the evictable tokens of one layer, from the whole prompt.

        Returns:
            [..., KV, N_x - w], float32; the higher the better. Dimensions before the heads are the
            method's own.
        """

    def keep(self, scores: Tensor, count: int) -> Tensor:
        """The ``count`` tokens that stay of each head, given the scores of those that are left.

        The heads are those of one layer or of several, one behind another.

        Returns:
            Indices into the scores' last dimension, [KV, count], ascending.
        """
        return keep_highest(scores, count)


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores of each head, [KV, n] -> [KV, count], ascending.

    Marking them and reading the marks in order takes half the time of sorting the indices.
    """
    highest = scores.topk(count, dim=-1, sorted=False).indices
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, highest, True)
    return kept.nonzero()[:, 1].view(len(scores), count)


@dataclass(frozen=True)
class SnapKV(EvictionMethod):
    """Keeps the tokens that the observation window attends to (Li et al., arXiv 2404.14469).

    Attributes:
        kernel: width of the pooling that smooths the scores, odd.

    Raises:
        SettingError: ``kernel`` is even or below 1.
    """

    kernel: int = 5

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise SettingError("kernel", self.kernel, "odd and >= 1")

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """The window's attention, smoothed, [KV, N_x - w]: the paper's "voting".

        Average pooling; zeros beyond both ends count, as in the authors' code. Means of a view take
        a tenth of the time of ``avg_pool1d`` on CPU.
        """
        half = self.kernel // 2
        return F.pad(prompt.attention, (half, half)).unfold(-1, self.kernel, 1).mean(-1)


@dataclass(frozen=True)
class ChunkKV(EvictionMethod):
    """Keeps the chunks that the observation window attends to (arXiv 2502.00299, Algorithm 1).

    Liu et al. score a chunk of adjoining tokens by the attention that it gets, and keep or drop it
    as a whole, for all heads of a layer: what belongs together stays readable. To keep exactly the
    number asked for, the last chunk to be kept may be kept in part, its best tokens.

    Attributes:
        attention: scores the tokens.
        chunk: tokens per chunk; the paper's 10.
    """

    attention: SnapKV = field(default_factory=SnapKV)
    chunk: int = 10

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Minus the place at which a token is kept, [KV, N_x - w], a view of one row.

        Chunks are placed by their mean attention over tokens and heads, tokens within one by their
        own.
        """
        tokens = self.attention.scores(prompt).sum(0)
        count = len(tokens)
        chunks = F.pad(tokens, (0, -count % self.chunk), value=float("nan")).view(-1, self.chunk)
        chunk_places = _places(chunks.nanmean(-1))[:, None]
        token_places = _places(chunks.nan_to_num(float("-inf")))
        places = (chunk_places * self.chunk + token_places).flatten()[:count]
        return -places.float().expand(len(prompt.keys), count)


def _places(scores: Tensor) -> Tensor:
    """Place of each score in descending order along the last dimension, from 0."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)


_EPSILON = 1e-4  # as in the authors' code: a long value counts even where attention is nearly zero
_BLOCK = 512  # tokens projected at a time, which bounds the transient memory


@dataclass(frozen=True)
class CriticalKV(EvictionMethod):
    """Keeps the tokens without which the attention's output would change most (arXiv 2502.03805).

    Feng et al. bound the change of A V W_o by attention times ||v W_o||_1 and select in two stages
    (Algorithm 1): a share of the tokens by their attention alone, on which the bound rests, the
    others by that product. Heads of a group are averaged, as their keys are shared.

    Attributes:
        projections: the layers' output projection W_o, [h, H D] each.
        attention: scores the tokens' attention.
        first_share: of the kept tokens, how many the first stage selects.
    """

    projections: Sequence[Tensor] = field(repr=False, compare=False)
    attention: SnapKV = field(default_factory=SnapKV)
    first_share: float = 0.5

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """What the stages select by: attention, and its product with the norm, [2, KV, N_x - w]."""
        attention = self.attention.scores(prompt)
        values = prompt.values[:, : prompt.evictable]
        norms = projected_norms(values, self.projections[prompt.layer])
        return torch.stack((attention, (attention + _EPSILON) * norms))

    def keep(self, scores: Tensor, count: int) -> Tensor:
        """The best by attention, then the best of the others by the product."""
        attention, product = scores
        first = attention.topk(int(count * self.first_share), dim=-1, sorted=False).indices
        return keep_highest(product.scatter(-1, first, float("inf")), count)


def projected_norms(values: Tensor, projection: Tensor) -> Tensor:
    """||v W_o||_1, averaged over the query heads that read a value.

    Args:
        values: [KV, n, D].
        projection: W_o, [h, H D].

    Returns:
        [KV, n], float32.
    """
    kv_heads, _, head_dim = values.shape
    of_heads = projection.view(len(projection), kv_heads, -1, head_dim).permute(1, 2, 3, 0)
    norms = [
        # [KV, 1, b, D] x [KV, G, D, h]
        torch.linalg.vector_norm(block[:, None] @ of_heads, ord=1, dim=-1, dtype=torch.float32)
        for block in values.split(_BLOCK, dim=1)
    ]
    return torch.cat(norms, dim=-1).mean(1)


def output_projections(model: PreTrainedModel) -> list[Tensor]:
    """Every layer's output projection W_o, [h, H D]; no copies.

    Raises:
        UnsupportedModel: the attention has no plain ``o_proj``.
    """
    decoder: Any = model.base_model
    try:
        projections = [layer.self_attn.o_proj for layer in decoder.layers]
    except AttributeError as error:
        raise UnsupportedModel(model.config.model_type, _needs(str(error))) from error
    other = {type(module).__name__ for module in projections if type(module) is not nn.Linear}
    if other:
        raise UnsupportedModel(model.config.model_type, _needs(f"it is {', '.join(other)}"))
    return [module.weight.detach() for module in projections]


def _needs(reason: str) -> str:
    return f"criticalkv needs every layer's self_attn.o_proj as a linear layer ({reason})"


@dataclass(frozen=True)
class StreamingLLM(EvictionMethod):
    """Keeps the first tokens, on which attention rests, and the most recent (arXiv 2309.17453).

    Xiao et al., section 3.2. There the kept tokens are given new, adjoining positions; here they
    keep their own, as with every other method.

    Attributes:
        sinks: first tokens to keep, before any recent one.
    """

    sinks: int = 4

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Higher the later, but highest for the sinks; [KV, N_x - w], a view of one row."""
        kv_heads, count = len(prompt.keys), prompt.evictable
        row = torch.arange(count, dtype=torch.float32, device=prompt.keys.device)
        sinks = row[: self.sinks]
        sinks.neg_().add_(count + self.sinks)  # the first of them is the last to go
        return row.expand(kv_heads, count)


@dataclass(frozen=True)
class KeyNorm(EvictionMethod):
    """Keeps the tokens with the shortest keys (Devoto et al., arXiv 2406.11430, section 3).

    Blind to what the prompt asks for. The authors leave the first layers whole; here every layer
    keeps the same number.
    """

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """The keys' Euclidean norm, negative, [KV, N_x - w]; rotation does not change it."""
        keys = prompt.keys[:, : prompt.evictable]
        norms: Tensor = torch.linalg.vector_norm(keys, dim=-1, dtype=torch.float32)
        return norms.neg()


@dataclass(frozen=True)
class RandomTokens(EvictionMethod):
    """Keeps tokens at random, drawn for every layer and head.

    A baseline: the draw follows from the seed, the layer and the prompt's length alone, so a
    request always repeats.

    Attributes:
        seed: of the draw.
    """

    seed: int = 0

    def scores(self, prompt: LayerPrompt) -> Tensor:
        """Uniform random numbers, [KV, N_x - w], the same on every device."""
        generator = torch.Generator().manual_seed(self.seed + prompt.layer)
        drawn = torch.rand(len(prompt.keys), prompt.evictable, generator=generator)
        return drawn.to(prompt.keys.device)
