# SPDX-License-Identifier: Apache-2.0
"""A small network that looks up a prompt's last tokens in the rest of the prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a token stands among: two tokens before it, itself, four after it.
_BEFORE, _AFTER = 2, 4
# How often a token occurs is told apart up to here.
_MOST_OCCURRENCES = 16
# Keeps the square root's slope finite at 0.
_LEAST_SUM = 0.1
# Tokens that one token of the tail adds to the length where its share is 1.
_UNIT = 8.0
# How far from the length a bucket of sharpness 1 loses one nat: buckets, and at least this share of
# all of them. Training starts there, and what is too far from the length at first is not learned.
_REACH = 2.0
_LEAST_REACH = 0.02
# Logarithm of the sharpness; beyond, the penalty would be flat, or too steep to learn from.
_LEAST_SHARPNESS, _MOST_SHARPNESS = -6.0, 4.0
# Share of the responses that may have any length, as those that run on have: without it a single
# one would cost hundreds of nats, and bend what was learned of all others.
_ANY_LENGTH = 0.01
# Training starts with short lengths.
_FIRST_SHARE = -2.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; ``tail`` is how many of the last tokens ask.

    ``classes`` is the number of buckets, ``bucket_size`` (B) their width in tokens.
    """

    vocabulary: int
    classes: int
    bucket_size: int
    hidden: int = 64
    heads: int = 2
    tail: int = 64


class LookUpNetwork(nn.Module):
    """The prompt's last tokens, which hold the instruction, look for themselves in the prompt.

    Each token of the tail attends to the occurrences of the same token and to nothing else; it
    finds what stands around them and how many there are. What an instruction's names mean need
    not be learned name by name, and a longer prompt is no harder. Then one self-attention within
    the tail, which knows its positions from the end.

    Attention averages, but lengths add up: each token of the tail, with the one before it, adds a
    share to a length in tokens, and buckets lose logits with their squared distance from it, so
    that neighbours are learned together. Sums of what the tokens contribute correct that bucket by
    bucket; their square root keeps long sums apart, and short ones too. Time is linear in the
    prompt's length.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, hidden)
        self.from_end = nn.Embedding(shape.tail, hidden)
        self.occurrences = nn.Embedding(_MOST_OCCURRENCES, hidden)
        self.around = nn.Parameter(torch.empty(_BEFORE + 1 + _AFTER, hidden))
        nn.init.normal_(self.around, std=0.5)
        self.look_up = _Attention(hidden, shape.heads)
        self.within = _Attention(hidden, shape.heads)
        self.share = nn.Linear(2 * hidden, hidden)
        self.total = nn.Linear(hidden, hidden)
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, shape.classes))
        self.length = nn.Linear(2 * hidden, 1)
        nn.init.constant_(self.length.bias, _FIRST_SHARE)
        self.sharpness = nn.Linear(hidden, 1)
        nn.init.zeros_(self.sharpness.weight)
        nn.init.zeros_(self.sharpness.bias)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Log probabilities [batch, classes] of ``tokens`` [batch, length], padded on the left.

        ``valid`` [batch, length] is False on padding.
        """
        summary, length = self.summary(tokens, valid)
        buckets = torch.arange(self.shape.classes, device=tokens.device)
        distance = buckets + 0.5 - length[:, None] / self.shape.bucket_size
        distance = distance / max(_REACH, _LEAST_REACH * self.shape.classes)
        sharpness = self.sharpness(summary).clamp(_LEAST_SHARPNESS, _MOST_SHARPNESS).exp()
        known = (self.out(summary) - sharpness * distance**2).log_softmax(-1)
        any_length = torch.full_like(known, math.log(_ANY_LENGTH / self.shape.classes))
        return torch.logaddexp(known + math.log1p(-_ANY_LENGTH), any_length)

    def summary(self, tokens: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """What ``forward`` decides by: features [batch, hidden], and a length in tokens [batch]."""
        x = self.embedding(tokens) * valid[..., None]
        tail, tail_valid = x[:, -self.shape.tail :], valid[:, -self.shape.tail :]
        same = tokens[:, -self.shape.tail :, None] == tokens[:, None]
        # A padded query attends to all padding: its row is never read, but must not be empty.
        same &= tail_valid[..., None] == valid[:, None]
        count = same.sum(-1).clamp(max=_MOST_OCCURRENCES) - 1
        places = torch.arange(tail.shape[1] - 1, -1, -1, device=tokens.device)
        surroundings = self._surroundings(x)
        found = self.look_up(tail, surroundings, same[:, None])
        tail = tail + found + self.occurrences(count) + self.from_end(places)
        tail = tail + self.within(tail, tail, tail_valid[:, None, None])
        before = F.pad((tail * tail_valid[..., None])[:, :-1], (0, 0, 1, 0))
        both = torch.cat([tail, before], dim=-1)
        length = _UNIT * (F.softplus(self.length(both)[..., 0]) * tail_valid).sum(1)
        shares = F.relu(self.share(both))
        total = ((shares * tail_valid[..., None]).sum(1) + _LEAST_SUM).sqrt()
        return tail[:, -1] + self.total(total), length

    def _surroundings(self, x: Tensor) -> Tensor:
        """The depthwise convolution of ``x`` [batch, length, hidden] over its length.

        As a sum of shifted inputs: torch's own convolution keeps a kernel on CPU for every length
        that it has met, some tens of KiB each, and prompts have thousands of lengths.
        """
        length = x.shape[1]
        padded = F.pad(x, (0, 0, _BEFORE, _AFTER))
        first, *others = self.around
        summed: Tensor = padded[:, :length] * first
        for shift, tap in enumerate(others, start=1):
            summed = torch.addcmul(summed, padded[:, shift : shift + length], tap)
        return summed


class _Attention(nn.Module):
    """Multi-head attention with a feed-forward layer behind it; norms before both.

    ``allowed`` [batch, 1, asking or 1, asked] says which tokens each may attend to, at least one.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.key_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value, self.output = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 2 * hidden),
            nn.GELU(),
            nn.Linear(2 * hidden, hidden),
        )

    def forward(self, asking: Tensor, asked: Tensor, allowed: Tensor) -> Tensor:
        query = self._split(self.query(self.query_norm(asking)))
        key, value = self._split(self.key(self.key_norm(asked))), self._split(self.value(asked))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        found: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        added: Tensor = self.feed_forward(asking + found)
        return found + added

    def _split(self, x: Tensor) -> Tensor:
        apart: Tensor = x.unflatten(-1, (self.heads, -1))
        return apart.transpose(1, 2)
