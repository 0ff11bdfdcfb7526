# SPDX-License-Identifier: Apache-2.0
"""What both kinds of predictor make of prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from timebill_ros.predictor.checkpoint import read_config
from timebill_ros.predictor.embedded_predictor import LookUpNetwork, Shape
from timebill_ros.predictor.errors import TargetMismatch
from timebill_ros.predictor.length_predictor import load_predictor

LONG = list(range(3, 43)) * 3


@pytest.mark.parametrize("prompt", [[], [3], LONG[:3], LONG[:4], LONG[:5], LONG])
@pytest.mark.parametrize("max_input", [None, 0, 1, 2, 7, 1000])
def test_every_prompt_and_limit_gives_a_distribution(
    embedded: Path, prompt: list[int], max_input: int | None
) -> None:
    distribution = load_predictor(embedded, threads=1).predict("", prompt, max_input)
    assert distribution.bucket_size == 16
    assert len(distribution.probabilities) == 7
    assert distribution.probabilities.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", " ", "a", "a b c", "a b c d e f g h i j " * 40, "unknown"])
@pytest.mark.parametrize("max_input", [None, 0, 1, 2, 7, 1000])
def test_every_text_and_limit_gives_a_distribution(
    classifier: Path, text: str, max_input: int | None
) -> None:
    distribution = load_predictor(classifier, threads=1).predict(text, [], max_input)
    assert distribution.probabilities.sum() == pytest.approx(1.0)


def test_a_limit_drops_the_middle_only(embedded: Path, classifier: Path) -> None:
    ours, theirs = load_predictor(embedded), load_predictor(classifier)
    short = ours.predict("", LONG[:5] + LONG[-5:], None).probabilities
    assert ours.predict("", LONG, 10).probabilities == pytest.approx(short)
    # Two of the six are the special tokens at both ends.
    short = theirs.predict("a b i j", [], None).probabilities
    assert theirs.predict("a b c d e f g h i j", [], 6).probabilities == pytest.approx(short)


def test_a_classifier_never_reads_beyond_its_positions(classifier: Path) -> None:
    predictor = load_predictor(classifier)
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] * 10
    whole = predictor.predict(" ".join(words), [], None).probabilities
    kept = predictor.predict(" ".join(words[:15] + words[-15:]), [], None).probabilities
    assert whole == pytest.approx(kept)


@pytest.mark.parametrize("token", [-1, 50])
def test_a_token_of_another_target_is_refused(embedded: Path, token: int) -> None:
    with pytest.raises(TargetMismatch, match=f"prompt token {token} .* vocabulary of 50"):
        load_predictor(embedded).predict("", [1, token, 2], None)


def test_a_saved_predictor_predicts_what_it_did(embedded: Path) -> None:
    torch.manual_seed(0)
    network = LookUpNetwork(Shape(50, 7, 16, hidden=8, tail=4)).eval()
    with torch.no_grad():
        logits = network(torch.tensor([LONG]), torch.ones(1, len(LONG), dtype=torch.bool))
    expected = logits[0].double().softmax(-1).numpy()
    loaded = load_predictor(embedded).predict("", LONG, None).probabilities
    np.testing.assert_allclose(loaded, expected, rtol=1e-5)
    assert read_config(embedded)["target"] == "none"
