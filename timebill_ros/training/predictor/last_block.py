# SPDX-License-Identifier: Apache-2.0
"""A pretrained model whose last block learns to classify, while the blocks below stay as they are.

What the lower blocks make of a prompt never changes, so it is computed once and kept. Of the last
block only the token that the head reads goes all the way: the others give their keys and values. An
epoch over a thousand prompts then takes seconds on one core, where training all blocks takes an
hour. Together they are an ordinary sequence classifier of transformers with fewer blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertForSequenceClassification, LlamaForSequenceClassification
from transformers.models.llama.modeling_llama import rotate_half

from timebill_ros.engine.checkpoint import target_fingerprint
from timebill_ros.predictor.length_predictor import keep_head_and_tail
from timebill_ros.predictor.sequence_classifier import load_tokenizer
from timebill_ros.training.predictor.baselines import LengthClasses
from timebill_ros.training.predictor.lower_blocks import Classifier, KeptStates, States, shortened
from timebill_ros.training.predictor.pairs import Pair
from timebill_ros.training.progress import track

_PROMPTS_PER_STEP = 32
_WARM_UP = 0.1  # of all steps
_WEIGHT_DECAY = 0.05


class LastBlock(nn.Module):
    """The last block of a classifier and its head, over the states of the blocks below."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self._model = (
            _LlamaBlock(model)
            if isinstance(model, LlamaForSequenceClassification)
            else _BertBlock(model)
        )

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        """Outputs [batch, classes] of ``states`` [batch, tokens, h], padded at the end.

        ``valid`` [batch, tokens] is False on padding.
        """
        outputs: Tensor = self._model(states, valid)
        return outputs


class _LlamaBlock(nn.Module):
    """The head reads the last token."""

    def __init__(self, model: LlamaForSequenceClassification) -> None:
        super().__init__()
        self.layer = model.model.layers[-1]
        self.norm, self.score = model.model.norm, model.score
        self.rotary = model.model.rotary_emb

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        attention = self.layer.self_attn
        width = attention.head_dim
        rows, last = torch.arange(len(states)), valid.sum(1) - 1
        normed = self.layer.input_layernorm(states)
        cos, sin = self.rotary(states, torch.arange(states.shape[1])[None])
        key, value = (_heads(of(normed), width) for of in (attention.k_proj, attention.v_proj))
        key = key * cos[:, None] + rotate_half(key) * sin[:, None]
        query = attention.q_proj(normed[rows, last]).unflatten(-1, (-1, width))
        query = query * cos[0, last, None] + rotate_half(query) * sin[0, last, None]
        read = F.scaled_dot_product_attention(
            query[:, :, None], key, value, attn_mask=valid[:, None, None], enable_gqa=True
        )
        state = states[rows, last] + attention.o_proj(read.flatten(1))
        state = state + self.layer.mlp(self.layer.post_attention_layernorm(state))
        outputs: Tensor = self.score(self.norm(state))
        return outputs


class _BertBlock(nn.Module):
    """The head reads the first token, [CLS]."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.layer: Any = model.bert.encoder.layer[-1]
        self.pooler: Any = model.bert.pooler
        self.classifier = model.classifier

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        attention = self.layer.attention.self
        width = attention.attention_head_size
        first = states[:, :1]
        query = _heads(attention.query(first), width)
        key, value = (_heads(of(states), width) for of in (attention.key, attention.value))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        state = self.layer.attention.output(read.transpose(1, 2).flatten(2), first)
        state = self.layer.output(self.layer.intermediate(state), state)
        outputs: Tensor = self.classifier(self.pooler(state))
        return outputs


def _heads(x: Tensor, width: int) -> Tensor:
    """[batch, tokens, heads * width] as [batch, heads, tokens, width]."""
    apart: Tensor = x.unflatten(-1, (-1, width))
    return apart.transpose(1, 2)


class Data(NamedTuple):
    """Some prompts as a model reads them, and the lengths of their answers."""

    states: Sequence[States]
    lengths: Sequence[int]


class LengthRegression(nn.Module):
    """A regression: the last block's one output, in standard deviations around the mean."""

    def __init__(self, block: LastBlock, lengths: Sequence[int]) -> None:
        super().__init__()
        self._block = block
        self._mean, self._deviation = float(np.mean(lengths)), float(np.std(lengths))

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        """LengthRegression [batch, 1], tokens."""
        outputs: Tensor = self._mean + self._deviation * self._block(states, valid)
        return outputs


def cross_entropy(classes: LengthClasses, outputs: Tensor, lengths: Sequence[int]) -> Tensor:
    """The loss of a classifier; outputs [batch, classes]."""
    return F.cross_entropy(outputs, torch.from_numpy(classes.labels(lengths)))


def train(
    network: nn.Module,
    data: Data,
    loss: Callable[[Tensor, Sequence[int]], Tensor],
    *,
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Train in place, over all prompts ``epochs`` times.

    The learning rate rises to ``rate``, then falls linearly to 0.
    A step's prompts have similar lengths, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    network.train().requires_grad_(True)
    batches = [rows for _ in range(epochs) for rows in _epoch(data, rng)]
    for step, rows in enumerate(track(batches, "training, steps"), start=1):
        share = min(step / (_WARM_UP * len(batches)), 1.0 - (step - 1) / len(batches))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, share)
        error = loss(network(*pad([data.states[row] for row in rows])), _of(data.lengths, rows))
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _epoch(data: Data, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """All rows once, in batches of similar length, in an order of chance."""
    sizes = np.array([len(states) for states in data.states]) * rng.uniform(0.8, 1.25, len(data[0]))
    rows = np.argsort(sizes)
    parts = np.array_split(rows, -(-len(rows) // _PROMPTS_PER_STEP))
    return [parts[place] for place in rng.permutation(len(parts))]


def _of(lengths: Sequence[int], rows: NDArray[np.int64]) -> list[int]:
    return [lengths[row] for row in rows]


def pad(states: Sequence[States]) -> tuple[Tensor, Tensor]:
    """[batch, tokens, h], padded at the end, and where they are not padding."""
    longest = max(map(len, states))
    padded = torch.zeros(len(states), longest, states[0].shape[1])
    valid = torch.zeros(len(states), longest, dtype=torch.bool)
    for row, each in enumerate(states):
        padded[row, : len(each)] = torch.from_numpy(each)
        valid[row, : len(each)] = True
    return padded, valid


@torch.inference_mode()
def outputs_of(network: nn.Module, states: Sequence[States]) -> Tensor:
    """The network's outputs [prompts, classes]."""
    network.eval()
    return torch.cat([network(*pad([each])) for each in states])


class ReadPrompts:
    """The pairs as the two pretrained models read them.

    Args:
        pairs: all of them.
        target: the target's folder.
        blocks: of the target's blocks, how many a class head stands on.
        encoder: the encoder's folder.
        most: tokens of a prompt that are read.
        kept: directory for the states of the lower blocks.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        target: Path,
        blocks: int,
        encoder: Path,
        most: int,
        kept: Path,
    ) -> None:
        self._most = most
        self._folders = {True: (target, blocks), False: (encoder, None)}
        self._pairs = pairs
        self._kept = kept
        self._states: dict[bool, Mapping[str, States]] = {}

    def data(self, pairs: Sequence[Pair], *, target: bool) -> Data:
        """Some of the pairs as the target, or else the encoder, reads them."""
        if target not in self._states:
            self._states[target] = self._read(target)
        states = self._states[target]
        return Data([states[p.digest] for p in pairs], [p.response_tokens for p in pairs])

    def block(self, target: bool, seed: int, outputs: int) -> LastBlock:
        """A pretrained last block with a new head, whose weights ``seed`` draws."""
        torch.manual_seed(seed)
        return LastBlock(shortened(*self._folders[target], outputs))

    def _read(self, target: bool) -> Mapping[str, States]:
        folder, blocks = self._folders[target]
        tokenizer = load_tokenizer(folder)
        # The target reads head and tail, as the predictor on the robot does; an encoder is cut.
        prompts = {
            pair.digest: keep_head_and_tail(tokenizer.encode(pair.prompt), self._most)
            if target
            else tokenizer.encode(pair.prompt, truncation=True, max_length=self._most)
            for pair in self._pairs
        }
        name = f"{target_fingerprint(folder)}-{blocks or 'all'}-{self._most}.npz"
        return KeptStates(self._kept / name).of(shortened(folder, blocks, 1), prompts)
