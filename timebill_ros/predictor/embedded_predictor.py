# SPDX-License-Identifier: Apache-2.0
"""A small length predictor that reads the target's own tokens."""

from __future__ import annotations

import json
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
from timebill_ros.predictor.truncation import keep_head_and_tail

MODEL_TYPE = "timebill_cross_attention"
_WEIGHTS = "model.safetensors"
_CONVOLUTION = 5


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; ``tail`` is how many of the last tokens ask."""

    vocabulary: int
    classes: int
    hidden: int = 64
    heads: int = 2
    tail: int = 64


class CrossAttentionClassifier(nn.Module):
    """The prompt's last tokens, which hold the instruction, ask; the whole prompt answers.

    One cross-attention from the tail to all tokens, whose keys see the four tokens before them,
    then one self-attention within the tail, which knows its positions from the end. Attention
    averages, but lengths add up: so the logits come from the last token and from a sum of what
    each token of the tail, with the one before it, contributes. Time is linear in the prompt's
    length.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden = shape.hidden
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, hidden)
        self.from_end = nn.Embedding(shape.tail, hidden)
        self.context = nn.Conv1d(hidden, hidden, _CONVOLUTION, groups=hidden, bias=False)
        self.cross = _Attention(hidden, shape.heads)
        self.within = _Attention(hidden, shape.heads)
        self.share = nn.Linear(2 * hidden, hidden)
        self.total = nn.Linear(hidden, hidden)
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, shape.classes))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Logits [batch, classes] of ``tokens`` [batch, length], padded on the left.

        ``valid`` [batch, length] is False on padding.
        """
        x = self.embedding(tokens) * valid[..., None]
        keys = self._in_context(x)
        tail, tail_valid = x[:, -self.shape.tail :], valid[:, -self.shape.tail :]
        places = torch.arange(tail.shape[1] - 1, -1, -1, device=tokens.device)
        before = F.pad(tail[:, :-1], (0, 0, 1, 0))
        tail = tail + self.cross(tail, keys, x, valid) + self.from_end(places)
        tail = tail + self.within(tail, tail, tail, tail_valid)
        shares = F.relu(self.share(torch.cat([tail, before], dim=-1)))
        total = (shares * tail_valid[..., None]).sum(1).log1p()
        logits: Tensor = self.out(tail[:, -1] + self.total(total))
        return logits

    def _in_context(self, x: Tensor) -> Tensor:
        """The causal convolution of ``x`` [batch, length, hidden] over its length.

        As a sum of shifted inputs: torch's own convolution keeps a kernel on CPU for every length
        that it has met, some tens of KiB each, and prompts have thousands of lengths.
        """
        padded = F.pad(x, (0, 0, _CONVOLUTION - 1, 0))
        first, *others = self.context.weight[:, 0].unbind(-1)
        keys = padded[:, : x.shape[1]] * first
        for shift, tap in enumerate(others, start=1):
            keys = torch.addcmul(keys, padded[:, shift : shift + x.shape[1]], tap)
        return keys


class _Attention(nn.Module):
    """Multi-head attention with a feed-forward layer behind it; norms before both."""

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

    def forward(self, asking: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        query = self._split(self.query(self.query_norm(asking)))
        key, value = self._split(self.key(self.key_norm(keys))), self._split(self.value(values))
        # A padded query attends to everything: its row is never read, but must not be NaN.
        mask = valid[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        added: Tensor = self.feed_forward(asking + found)
        return found + added

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class EmbeddedPredictor:
    """A ``LengthPredictor`` over the target's tokens.

    Args:
        network: the classifier, on the device that it is to run on.
        buckets: what its classes mean.
        threads: CPU threads of one prediction; None leaves the calling thread's number.
    """

    def __init__(
        self, network: CrossAttentionClassifier, buckets: Buckets, threads: int | None
    ) -> None:
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
    folder: Path, network: CrossAttentionClassifier, buckets: Buckets, provenance: dict[str, Any]
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
    network = CrossAttentionClassifier(shape)
    try:
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise PredictorIncomplete(folder, f"{_WEIGHTS} cannot be used ({reason})") from error
    return EmbeddedPredictor(network.to(device), buckets, threads)
