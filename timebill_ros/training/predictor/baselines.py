# SPDX-License-Identifier: Apache-2.0
"""The published length predictors that ours is compared with: their classes and their networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from timebill_ros.predictor.embedded_predictor import LookUpNetwork


@dataclass(frozen=True, eq=False)
class LengthClasses:
    """Class i, counted from 0, covers the lengths (upper[i-1], upper[i]]; the first starts at 1.

    Attributes:
        upper: shape [classes], ascending; the last is N_model, the longest response.

    Raises:
        ValueError: no classes, or edges that do not ascend from 1.
    """

    upper: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check what the look-ups below rely on."""
        if self.upper.size == 0 or np.any(np.diff(self.upper, prepend=0) < 1):
            raise ValueError(f"upper edges must ascend from 1, not {self.upper.tolist()}")

    @property
    def count(self) -> int:
        """Number of classes."""
        return int(self.upper.size)

    def labels(self, lengths: Sequence[int]) -> NDArray[np.int64]:
        """The classes of some lengths, none above N_model."""
        return np.searchsorted(self.upper, lengths, side="left")

    def means(self, lengths: Sequence[int]) -> NDArray[np.float64]:
        """Mean of those ``lengths`` that fall into each class; the middle where none does."""
        labels, values = self.labels(lengths), np.asarray(lengths, dtype=np.float64)
        lower = np.concatenate([[0], self.upper[:-1]])
        means = (lower + 1 + self.upper) / 2.0
        for label in np.unique(labels):
            means[label] = values[labels == label].mean()
        return means


def buckets(size: int, longest_response: int) -> LengthClasses:
    """Buckets of ``size`` tokens (B), the paper's own: N_hat is min(N_model, bucket * B)."""
    edges = np.arange(size, longest_response + size, size)
    return LengthClasses(np.minimum(edges, longest_response))


PROXY_MODEL_PERCENTILES = (25, 50, 75, 99)
S3_CLASSES = 10


def proxy_model_classes(lengths: Sequence[int], longest_response: int) -> LengthClasses:
    """ProxyModel's five classes, cut at percentiles of the training lengths.

    Qiu et al., *Efficient interactive LLM serving with proxy model-based sequence length
    prediction*, arXiv 2404.08509. Percentiles that fall together make one class.
    """
    cuts = np.ceil(np.percentile(lengths, PROXY_MODEL_PERCENTILES)).astype(np.int64)
    return LengthClasses(np.unique([*cuts, longest_response]))


def s3_classes(longest_response: int) -> LengthClasses:
    """S3's ten equal buckets; Jin et al., *S3: increasing GPU utilization*, NeurIPS 2023."""
    return buckets(-(-longest_response // S3_CLASSES), longest_response)


class Regression(nn.Module):
    """Predicts one length: the network's own, corrected by a linear function of its features."""

    def __init__(self, network: LookUpNetwork) -> None:
        super().__init__()
        self.network = network
        self.correction = nn.Linear(network.shape.hidden, 1)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Lengths [batch, 1], tokens, of ``tokens`` [batch, length], padded on the left."""
        summary, length = self.network.summary(tokens, valid)
        corrected: Tensor = length[:, None] + self.correction(summary)
        return corrected


POSITIONS = 512
HIDDEN, HEADS, FEED_FORWARD = 64, 2, 256
BERT_LAYERS, DISTILBERT_LAYERS = 2, 1
# Two passes over the pairs do not overfit, and dropout would triple the time of a step on CPU.
DROPOUT = 0.0


class Kept(Enum):
    """Which end of a prompt of more than ``POSITIONS`` tokens is read."""

    HEAD = "first"
    """As published: a BERT tokenizer cuts off what comes after."""
    TAIL = "last"


class TruncatedEncoder(nn.Module):
    """A sequence classifier of transformers behind the interface of our own network.

    Args:
        model: reads at most ``POSITIONS`` tokens, padded on the right.
        kept: which ones of a longer prompt.
    """

    def __init__(self, model: PreTrainedModel, kept: Kept) -> None:
        super().__init__()
        self._model = model
        self._kept = kept

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Outputs [batch, classes] of ``tokens`` [batch, length], padded on the left."""
        if self._kept is Kept.TAIL:
            tokens, valid = tokens[:, -POSITIONS:], valid[:, -POSITIONS:]
        to_front = valid.int().argsort(dim=1, descending=True, stable=True)
        tokens, valid = (x.gather(1, to_front)[:, :POSITIONS] for x in (tokens, valid))
        outputs: Tensor = self._model(tokens, attention_mask=valid.long()).logits
        return outputs


def bert(vocabulary: int, outputs: int, seed: int, kept: Kept) -> TruncatedEncoder:
    """BERT's architecture with random weights, as ProxyModel uses it, at a width that trains here.

    The target's first token, which starts every prompt, takes the place of [CLS].
    """
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=BERT_LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        id2label=_labels(outputs),
    )
    return TruncatedEncoder(BertForSequenceClassification(config), kept)


def distilbert(vocabulary: int, outputs: int, seed: int, kept: Kept) -> TruncatedEncoder:
    """DistilBERT's architecture with random weights, as S3 uses it: half of BERT's layers."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocabulary,
        dim=HIDDEN,
        n_layers=DISTILBERT_LAYERS,
        n_heads=HEADS,
        hidden_dim=FEED_FORWARD,
        max_position_embeddings=POSITIONS,
        dropout=DROPOUT,
        attention_dropout=DROPOUT,
        seq_classif_dropout=DROPOUT,
        id2label=_labels(outputs),
    )
    return TruncatedEncoder(DistilBertForSequenceClassification(config), kept)


def _labels(outputs: int) -> dict[int, str]:
    """Tells transformers the number of outputs."""
    return {label: str(label) for label in range(outputs)}
