# SPDX-License-Identifier: Apache-2.0
"""What a classifier reads: never more than it can, and something even of nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from timebill_ros.predictor.sequence_classifier import (
    SequenceClassifierPredictor,
    load,
    positions_of,
)

from .conftest import BUCKETS

POSITIONS = 34
SIZES = {
    "vocab_size": 14,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": POSITIONS,
    "num_labels": BUCKETS.count,
    "initializer_range": 1.0,
}


def bert() -> PreTrainedModel:
    return BertForSequenceClassification(BertConfig(**SIZES))


def roberta() -> PreTrainedModel:
    return RobertaForSequenceClassification(RobertaConfig(**SIZES, pad_token_id=1))


def mpnet() -> PreTrainedModel:
    return MPNetForSequenceClassification(MPNetConfig(**SIZES))


def xlnet() -> PreTrainedModel:
    config = XLNetConfig(
        vocab_size=14,
        d_model=8,
        n_layer=1,
        n_head=2,
        d_inner=8,
        num_labels=BUCKETS.count,
        initializer_range=1.0,
    )
    return XLNetForSequenceClassification(config)


def bare_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """The words a..j from token 4 on; puts nothing around a text."""
    words = ["[PAD]", "<s>", "</s>", "[UNK]", *"abcdefghij"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)


def predictor(
    build: Callable[[], PreTrainedModel] = bert,
    max_input: int | None = None,
    threads: int | None = None,
    **special: str,
) -> SequenceClassifierPredictor:
    torch.manual_seed(0)
    return SequenceClassifierPredictor(
        build(), bare_tokenizer(**special), BUCKETS, max_input, threads
    )


def told(model: SequenceClassifierPredictor, text: str, max_input: int | None = None) -> list:
    return model.predict(text, (), max_input).probabilities.tolist()


@pytest.mark.parametrize(
    ("build", "longest"), [(bert, 34), (roberta, 32), (mpnet, 32), (xlnet, None)]
)
def test_the_positions_of_padding_are_no_token_s(
    build: Callable[[], PreTrainedModel], longest: int | None
) -> None:
    assert positions_of(build()) == longest


@pytest.mark.parametrize("build", [bert, roberta, mpnet])
def test_the_longest_text_is_read_up_to_the_last_position(
    build: Callable[[], PreTrainedModel],
) -> None:
    model, longest = predictor(build), positions_of(build())
    assert longest is not None
    words = list("abcdefghij") * 10
    head, tail = words[: longest // 2], words[-(longest // 2) :]
    assert told(model, " ".join(words)) == pytest.approx(told(model, " ".join(head + tail)))
    assert told(model, " ".join(words)) != pytest.approx(told(model, " ".join(head + tail[1:])))


def test_a_model_without_bound_reads_all() -> None:
    model, words = predictor(xlnet), list("abcdefghij") * 10
    assert told(model, " ".join(words)) != pytest.approx(told(model, " ".join(words[1:])))


@pytest.mark.parametrize(("trained_on", "asked"), [(4, None), (None, 4), (4, 9), (9, 4)])
def test_the_tightest_limit_counts(trained_on: int | None, asked: int | None) -> None:
    model = predictor(max_input=trained_on)
    assert told(model, "a b c d e f g h i j", asked) == pytest.approx(told(model, "a b i j"))


@pytest.mark.parametrize(
    ("special", "same_as"),
    [
        ({"bos_token": "<s>", "eos_token": "</s>"}, "<s>"),
        ({"eos_token": "</s>"}, "</s>"),
        ({}, "[PAD]"),
    ],
)
def test_of_nothing_a_special_token_is_read(special: dict[str, str], same_as: str) -> None:
    model = predictor(**special)
    (token,) = bare_tokenizer().convert_tokens_to_ids([same_as])
    with torch.inference_mode():
        expected = model.model(torch.tensor([[token]])).logits[0].double().softmax(-1)
    assert told(model, "") == pytest.approx(expected.tolist())
    assert told(model, "a", 0) == pytest.approx(expected.tolist())


def test_predicting_takes_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    for threads in (None, 4, 2):
        predictor(threads=threads).predict("a", (), None)
    assert taken == [2]


def test_a_loaded_model_cannot_be_trained_and_drops_nothing_out(classifier: Path) -> None:
    model = load(classifier, device="cpu", threads=None).model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
