# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from timebill_ros.cli import reach
from timebill_ros.replay.simulated import load_time_model

CONFIG = {
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
}
FIGURES = ("--bandwidth", "696", "--flops", "75")


def arguments(folder: Path, content: str, *more: str) -> list[str]:
    path = folder / "config.json"
    path.write_text(content)
    return ["--model-config", str(path), *FIGURES, *more]


def test_a_table_and_a_time_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "times.json"
    more = ("--prompt-tokens", "8000", "--response-tokens", "200", "--save", str(saved))
    assert reach.main(arguments(tmp_path, json.dumps(CONFIG), *more)) == 0
    told = capsys.readouterr().out
    assert "7070 million weights are read by a step, 57.3 kB of cache per token" in told
    assert "| eviction, alpha 0.95 |" in told
    assert load_time_model(saved).q == pytest.approx(2 * 7.0698e9 / 696e9, rel=1e-3)


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        ("{", (), "config.json: "),
        ("[" * 100_000, (), "config.json: "),
        ("{}", (), "config.json: num_attention_heads is missing"),
        (json.dumps(CONFIG), ("--bandwidth", "nan"), "bandwidth must be"),
        (json.dumps(CONFIG), ("--prompt-tokens", "40000"), "32768 together at most"),
        (json.dumps({**CONFIG, "vocab_size": "\x1b[31m"}), (), "vocab_size must be"),
    ],
)
def test_bad_figures_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    more: tuple[str, ...],
    reason: str,
) -> None:
    assert reach.main(arguments(tmp_path, content, *more)) == 1
    told = capsys.readouterr().err
    assert reason in told
    assert "\x1b" not in told


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reach.main(["--model-config", str(tmp_path / "none.json"), *FIGURES]) == 1
    assert "none.json" in capsys.readouterr().err
