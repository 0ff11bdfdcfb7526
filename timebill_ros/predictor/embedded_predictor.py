# SPDX-License-Identifier: Apache-2.0
"""A small length predictor that reads the target's own tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.predictor.checkpoint import Buckets, read_buckets, read_config, read_integer
from timebill_ros.predictor.errors import PredictorIncomplete, TargetMismatch
from timebill_ros.predictor.length_predictor import keep_head_and_tail

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
        surroundings = self.surroundings_of(x)
        found = self.look_up(tail, surroundings, same[:, None])
        tail = tail + found + self.occurrences(count) + self.from_end(places)
        tail = tail + self.within(tail, tail, tail_valid[:, None, None])
        before = F.pad((tail * tail_valid[..., None])[:, :-1], (0, 0, 1, 0))
        both = torch.cat([tail, before], dim=-1)
        length = _UNIT * (F.softplus(self.length(both)[..., 0]) * tail_valid).sum(1)
        shares = F.relu(self.share(both))
        total = ((shares * tail_valid[..., None]).sum(1) + _LEAST_SUM).sqrt()
        return tail[:, -1] + self.total(total), length

    def surroundings_of(self, x: Tensor) -> Tensor:
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


MODEL_TYPE = "timebill_look_up"
_WEIGHTS = "model.safetensors"


class EmbeddedPredictor:
    """A ``LengthPredictor`` over the target's tokens.

    Args:
        network: the classifier, on the device that it is to run on.
        buckets: what its classes mean.
        threads: CPU threads of one prediction; None leaves the calling thread's number.
    """

    def __init__(self, network: LookUpNetwork, buckets: Buckets, threads: int | None) -> None:
        self.bucket_size = buckets.size
        self._network = network.eval().requires_grad_(False)
        self._threads = threads

    @torch.inference_mode()
    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        """P(bucket); reads ``prompt_ids`` only. An empty prompt reads as one token 0.

        Raises:
            TargetMismatch: a token is outside the vocabulary.
        """
        tokens = keep_head_and_tail(prompt_ids, max_input) or [0]
        vocabulary = self._network.shape.vocabulary
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            raise TargetMismatch(next(t for t in tokens if not 0 <= t < vocabulary), vocabulary)
        if self._threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self._threads)  # per calling thread
        device = self._network.embedding.weight.device
        batch = torch.tensor([tokens], device=device)
        logits = self._network(batch, torch.ones_like(batch, dtype=torch.bool))
        probabilities = logits[0].double().softmax(-1).cpu().numpy()
        return LengthDistribution(probabilities, self.bucket_size)


def save(
    folder: Path, network: LookUpNetwork, buckets: Buckets, provenance: dict[str, Any]
) -> None:
    """Write config.json and safetensors; ``provenance`` says what it was trained for and how."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "bucket_size": buckets.size,
        "longest_response": buckets.longest_response,
        **asdict(network.shape),
        **provenance,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(network.state_dict(), folder / _WEIGHTS)


def load(folder: Path, *, device: str, threads: int | None) -> EmbeddedPredictor:
    """Load what ``save`` wrote.

    Raises:
        PredictorError: see ``read_config`` and ``read_buckets``; ``PredictorIncomplete`` also when
            the weights do not fit the configuration.
    """
    config = read_config(folder)
    sizes = {key: read_integer(folder, config, key) for key in Shape.__dataclass_fields__}
    shape = Shape(**sizes)
    buckets = read_buckets(folder, config, shape.classes)
    network = LookUpNetwork(shape)
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise PredictorIncomplete(folder, f"{_WEIGHTS} cannot be used ({reason})") from error
    return EmbeddedPredictor(network.to(device), buckets, threads)
