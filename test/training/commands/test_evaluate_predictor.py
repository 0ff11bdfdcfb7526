# SPDX-License-Identifier: Apache-2.0
"""A predictor that reads the target's tokens is given these."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from timebill_ros.budget.length import LengthDistribution
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.prompt import PromptEncoder
from timebill_ros.engine.request import Conversation
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.runtime.models import model_folder
from timebill_ros.runtime.settings import Settings
from timebill_ros.training.commands import collect, evaluate_predictor
from timebill_ros.training.predictor.assessment import assess, length_quality
from timebill_ros.training.predictor.pairs import Pair, read_pairs

TARGET = Path(model_folder(Settings()))
PREDICTOR = TARGET.parent / "predictor"
TEXTS = ("stop", "keep lane", "now stop", "WSWZLA1 5Z")


def test_the_embedded_predictor_reads_the_targets_tokens(tmp_path: Path) -> None:
    lines = (json.dumps({"prompt": text}) + "\n" for text in TEXTS)
    (tmp_path / "in.jsonl").write_text("".join(lines))
    output = tmp_path / "pairs.jsonl"
    assert collect.main([str(output), "--prompts", str(tmp_path / "in.jsonl")]) == 0
    files = ["--json", str(tmp_path / "figures.json"), "--threads", "1"]
    assert evaluate_predictor.main([str(PREDICTOR), str(output), *files]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())

    tokenizer = load_checkpoint(TARGET).tokenizer
    predictor = load_predictor(PREDICTOR, threads=1)
    encoder = PromptEncoder(tokenizer, 4096)
    tokens_of = dict(encoder.encode(Conversation("", text)) for text in TEXTS)
    header, pairs = read_pairs([output])
    prompts = [tokens_of[pair.prompt] for pair in pairs]  # in the order of their answers' ends
    lengths = [pair.response_tokens for pair in pairs]
    predicted = [predictor.predict("", prompt, None) for prompt in prompts]
    expected = length_quality(predicted, lengths, header.longest_response)
    assert {name: figures[name] for name in expected.rounded()} == expected.rounded()
    blind = [predictor.predict("", (), None) for _ in prompts]
    assert blind[0].probabilities != pytest.approx(predicted[0].probabilities)


def test_worse_than_the_mean_is_said() -> None:
    short, long = (LengthDistribution(np.eye(4)[bucket], 16) for bucket in (0, 3))
    pairs = [Pair(text, 1, tokens, "EOS") for text, tokens in (("a", 10), ("b", 60))]
    tables = [
        list(evaluate_predictor.table(assess(told, pairs, 64, pessimism=5.0, calibration=None)))
        for told in ([long, short], [short, long])
    ]
    worse, better = ("\n".join(lines) for lines in tables)
    assert "worse than always the mean length" in worse
    assert "worse" not in better
