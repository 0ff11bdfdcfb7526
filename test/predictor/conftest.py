# SPDX-License-Identifier: Apache-2.0
"""Untrained predictors, small enough to write and load in a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from timebill_ros.predictor.checkpoint import Buckets
from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape, save

BUCKETS = Buckets(size=16, longest_response=100)


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """A checkpoint of our own kind over a vocabulary of 50 tokens."""
    torch.manual_seed(0)
    network = LookUpNetwork(Shape(50, BUCKETS.count, BUCKETS.size, hidden=8, tail=4))
    save(tmp_path / "embedded", network, BUCKETS, {"target": "none"})
    return tmp_path / "embedded"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A BERT of 32 positions with the words a..j, as transformers saves it, and its buckets."""
    torch.manual_seed(0)
    folder = tmp_path / "classifier"
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
        num_labels=BUCKETS.count,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    path = folder / "config.json"
    keys = {"bucket_size": BUCKETS.size, "longest_response": BUCKETS.longest_response}
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder
