# SPDX-License-Identifier: Apache-2.0
"""A last block over kept states says what the whole classifier says; and it learns, in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from timebill_ros.predictor.errors import BackboneUnusable
from timebill_ros.training.predictor import compare_on_answers
from timebill_ros.training.predictor.compare_on_answers import CONSTANTS, METHODS
from timebill_ros.training.predictor.error_table import read_results
from timebill_ros.training.predictor.last_block import LastBlock, pad
from timebill_ros.training.predictor.lower_blocks import KeptStates, shortened, states_below
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, pair_line, write_header

WORDS = ("[PAD]", "[CLS]", *"abcdefghij", "short", "long")
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [1, 9], [1, 5, 6, 2]]
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pretrained models of random weights: three blocks each."""
    torch.manual_seed(0)
    common = {"vocab_size": len(WORDS), "num_hidden_layers": 3, "pad_token_id": 0}
    llama = LlamaConfig(**SIZES, **common, num_key_value_heads=2, max_position_embeddings=64)
    bert = BertConfig(**SIZES, **common, max_position_embeddings=32, initializer_range=0.4)
    gpt2 = GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=2, n_head=2, pad_token_id=0)
    made = {"llama": LlamaModel(llama), "bert": BertModel(bert), "gpt2": GPT2Model(gpt2)}
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="a")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folders = {name: tmp_path_factory.mktemp(name) for name in made}
    for name, model in made.items():
        model.save_pretrained(folders[name])
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]"
        ).save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(("name", "blocks"), [("llama", None), ("llama", 2), ("bert", None)])
def test_the_last_block_says_what_the_whole_classifier_says(
    folders: dict[str, Path], name: str, blocks: int | None
) -> None:
    torch.manual_seed(1)
    model = shortened(folders[name], blocks, 5)
    assert model.config.num_hidden_layers == (blocks or 3)
    with torch.inference_mode():
        whole = [model(torch.tensor([prompt])).logits[0] for prompt in PROMPTS]
        states = dict(states_below(model, PROMPTS, torch.float32))
        padded, valid = pad([states[row] for row in range(3)])
        outputs = LastBlock(model).eval()(padded, valid)
    assert outputs.shape == (3, 5)
    for expected, got in zip(whole, outputs, strict=True):
        assert got.tolist() == pytest.approx(expected.tolist(), abs=2e-3)  # states are float16


def test_states_are_computed_once(folders: dict[str, Path], tmp_path: Path) -> None:
    model = shortened(folders["bert"], None, 1)
    prompts = {"a": PROMPTS[0], "b": PROMPTS[1]}
    first = KeptStates(tmp_path / "new" / "kept.npz").of(model, prompts)
    for parameter in model.parameters():
        parameter.data.zero_()
    more = {**prompts, "c": PROMPTS[2]}
    again = KeptStates(tmp_path / "new" / "kept.npz").of(model, more)
    assert [len(again[key]) for key in "abc"] == [7, 2, 4]
    for key, states in first.items():
        np.testing.assert_array_equal(again[key], states)
    assert not np.array_equal(again["c"], again["a"][:4])


@pytest.mark.parametrize(
    ("name", "blocks", "said"),
    [
        ("gpt2", None, "neither Llama's nor BERT's"),
        ("bert", 4, "it has 3"),
        ("llama", 1, "least 2"),
    ],
)
def test_what_cannot_be_shortened_is_named(
    folders: dict[str, Path], name: str, blocks: int | None, said: str
) -> None:
    with pytest.raises(BackboneUnusable, match=said):
        shortened(folders[name], blocks, 5)


def write_pairs(path: Path) -> None:
    """Answers whose length the last word tells, but for two tokens."""
    write_header(path, PairsHeader("tiny", "0" * 16, 256, {}))
    with path.open("w") as file:
        for number in range(160):
            fillers = " ".join("abcdefghij"[(number // 2 // 10**k) % 10] for k in range(3))
            kind = ("short", "long")[number % 2]
            length = {"short": 40, "long": 200}[kind] + number % 3
            file.write(pair_line(Pair(f"{fillers} {kind}", 4, length, "EOS")))


def arguments(folders: dict[str, Path], path: Path, *more: str) -> Sequence[str]:
    """Of a comparison whose results go beside the pairs."""
    return [
        *(str(path / "pairs.jsonl"), "--model", str(folders["llama"]), "--blocks", "2"),
        *("--encoder", str(folders["bert"]), "--kept", str(path / "kept")),
        *("--results", str(path / "results.csv"), "--rate", "0.01", "--threads", "1", *more),
    ]


def test_every_row_of_the_table_learns(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    given = arguments(folders, tmp_path, "--seeds", "0", "--epochs", "20")
    assert compare_on_answers.main(given) == 0
    results = read_results(tmp_path / "results.csv")
    told = capsys.readouterr().out
    for name in (*CONSTANTS, *(method.name for method in METHODS)):
        rows = {row.rule: row for row in results if row.method == name}
        assert f"| {name} |" in told
        if name in CONSTANTS:
            assert rows["constant"].mae > 60.0
        elif name == "regression":
            assert rows["value"].mae < 30.0
        else:
            assert set(rows) == {"upper edge", "class mean", "expected length", "median"}
            assert rows["expected length"].mae < 30.0, name
    before = (tmp_path / "results.csv").read_bytes()
    assert compare_on_answers.main(given) == 0  # all is there already
    assert (tmp_path / "results.csv").read_bytes() == before


def test_answers_within_the_planned_length_are_counted(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    given = ("--seeds", "1", "--epochs", "20", "--methods", "regression", "--coverage")
    assert compare_on_answers.main(arguments(folders, tmp_path, *given)) == 0
    _, rows = capsys.readouterr().out.split("class head, B = 16, seed 1:\n")
    shares = [[float(part) for part in row.split("|")[1:-1]] for row in rows.splitlines()[2:]]
    assert [risk for risk, *_ in shares] == [0.05, 0.1, 0.2, 0.5]
    for risk, covered, planned in shares:
        assert abs(covered - (1.0 - risk)) <= 0.25  # of 32 unseen prompts
        assert 40.0 <= planned <= 256.0


def test_pairs_that_are_not_there_are_named(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_on_answers.main(arguments(folders, tmp_path)) == 1
    assert "pairs.header.json" in capsys.readouterr().err
