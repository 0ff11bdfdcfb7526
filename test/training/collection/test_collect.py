# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.sampling import Sampling
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.predictor.errors import BadLine, HeaderUnusable, SettingsDiffer
from timebill_ros.training.collection.collect import Fate, begin_or_go_on, collect, describe_target
from timebill_ros.training.collection.prompts import Prompt
from timebill_ros.training.predictor.pairs import PairsHeader, header_path, read_pairs

LONGEST = 12


class Target:
    """An engine over a checkpoint, and the header of what it generates."""

    def __init__(self, folder: Path, sampling: Sampling | None = None, longest: int = LONGEST):
        checkpoint = load_checkpoint(folder)
        settings = EngineSettings(max_context=64, window=8, sampling=sampling or Sampling())
        self.engine = TransformerEngine(checkpoint, settings)
        self.header = describe_target("random", checkpoint, settings, longest)

    def collect(self, texts: Sequence[str], output: Path) -> Counter[str]:
        prompts = [Prompt(f"text {n}", Conversation("", text)) for n, text in enumerate(texts, 1)]
        return Counter(collect(self.engine, prompts, output, self.header))


@pytest.fixture
def run(target: Path) -> Target:
    return Target(target)


def lengths(output: Path) -> dict[str, int]:
    return {pair.prompt: pair.response_tokens for pair in read_pairs([output])[1]}


def test_lengths_are_those_of_the_target(run: Target, tmp_path: Path) -> None:
    output = tmp_path / "new" / "pairs.jsonl"
    assert run.collect(["one", "two"], output) == {Fate.ANSWERED: 2}
    header, pairs = read_pairs([output])
    assert header == run.header
    assert header.decoding["chat_template"] is False
    for pair in pairs:
        run.engine.begin(run.engine.prepare(Conversation("", pair.prompt)), LONGEST)
        while not run.engine.prefill_chunk():
            pass
        while run.engine.finish_reason is None:
            run.engine.step()
        assert pair.response_tokens == run.engine.response_tokens
        assert pair.finish_reason == run.engine.finish_reason.value
        assert pair.prompt_tokens == len(pair.prompt)


def test_a_prompt_is_kept_as_the_template_renders_it(chat_target: Path, tmp_path: Path) -> None:
    run = Target(chat_target)
    run.collect(["one"], tmp_path / "pairs.jsonl")
    assert list(lengths(tmp_path / "pairs.jsonl")) == ["<user>one<assistant>"]
    assert run.header.decoding["chat_template"] is True


def test_a_second_run_goes_on(run: Target, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    run.collect(["one", "two"], output)
    first = output.read_text()
    fates = run.collect(["one", "two", "three", "one"], output)
    assert fates == {Fate.KNOWN: 3, Fate.ANSWERED: 1}
    assert output.read_text().startswith(first)
    assert list(lengths(output)) == ["one", "two", "three"]


def test_a_torn_last_line_is_generated_again(
    run: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "pairs.jsonl"
    run.collect(["one", "two"], output)
    whole = output.read_text()
    output.write_text(whole[:-20])
    assert run.collect(["one", "two"], output) == {Fate.KNOWN: 1, Fate.ANSWERED: 1}
    assert output.read_text() == whole
    assert "cut off" in caplog.text


@pytest.mark.parametrize(
    ("sampling", "longest", "key"),
    [
        (Sampling(temperature=0.5), LONGEST, "temperature"),
        (Sampling(seed=3), LONGEST, "seed"),
        (Sampling(), LONGEST + 1, "longest_response"),
    ],
)
def test_other_settings_are_refused_by_key(
    run: Target, target: Path, tmp_path: Path, sampling: Sampling, longest: int, key: str
) -> None:
    output = tmp_path / "pairs.jsonl"
    run.collect(["one"], output)
    with pytest.raises(SettingsDiffer, match=key) as caught:
        Target(target, sampling, longest).collect(["two"], output)
    assert caught.value.key == key
    assert list(lengths(output)) == ["one"]


def test_another_target_is_refused(run: Target, chat_target: Path, tmp_path: Path) -> None:
    run.collect(["one"], tmp_path / "pairs.jsonl")
    with pytest.raises(SettingsDiffer, match="target") as caught:
        Target(chat_target).collect(["two"], tmp_path / "pairs.jsonl")
    assert run.header.target in str(caught.value)


def test_pairs_without_a_header_are_not_added_to(run: Target, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    run.collect(["one"], output)
    header_path(output).unlink()
    with pytest.raises(HeaderUnusable, match="missing"):
        run.collect(["two"], output)


def test_a_damaged_line_in_the_middle_is_named(run: Target, tmp_path: Path) -> None:
    output = tmp_path / "pairs.jsonl"
    run.collect(["one", "two"], output)
    first, second = output.read_text().splitlines()
    output.write_text(f"{first[:-5]}\n{second}\n")
    with pytest.raises(BadLine, match="line 1: not JSON"):
        begin_or_go_on(output, run.header)


def test_what_the_target_cannot_take_is_left_out(
    run: Target, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fates = run.collect(["one", "x" * 60, " "], tmp_path / "pairs.jsonl")
    assert fates == {Fate.ANSWERED: 1, Fate.TOO_LONG: 1, Fate.REFUSED: 1}
    assert "text 2 is left out: prompt of 60 tokens" in caplog.text
    assert "text 3 is left out: the prompt is empty" in caplog.text


def test_the_header_says_what_lengths_depend_on(run: Target, tmp_path: Path) -> None:
    run.collect(["one"], tmp_path / "pairs.jsonl")
    content = json.loads((tmp_path / "pairs.header.json").read_text())
    assert PairsHeader(**content) == run.header
    assert content["decoding"].keys() >= {"temperature", "top_p", "seed", "max_tokens", "stop"}
