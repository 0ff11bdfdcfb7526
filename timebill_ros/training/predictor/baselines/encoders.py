# SPDX-License-Identifier: Apache-2.0
"""The bidirectional encoders of the published length predictors, over a target's own tokens."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

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
