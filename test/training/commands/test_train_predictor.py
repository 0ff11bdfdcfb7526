# SPDX-License-Identifier: Apache-2.0
"""Training and measuring from the command line, over the embedded model's backbone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from timebill_ros.engine.errors import CheckpointNotFound
from timebill_ros.predictor.length_predictor import load_predictor
from timebill_ros.training.commands import evaluate_predictor, train_predictor
from timebill_ros.training.predictor.pairs import Pair, PairsHeader, pair_line, write_header

HEADER = PairsHeader("some/model", "0123456789abcdef", 64, {"temperature": 0.0})
FEW_STEPS = ["--backbone", "embedded", "--epochs", "1", "--batch", "8", "--cpu", "--threads", "1"]


def write_pairs(path: Path, first: int, count: int, header: PairsHeader = HEADER) -> Path:
    pairs = [Pair(f"drive {n}", 4, 1 + 7 * n % 60, "EOS") for n in range(first, first + count)]
    path.write_text("".join(map(pair_line, pairs)))
    write_header(path, header)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "train.jsonl", 0, 40)


@pytest.fixture(scope="module")
def predictor(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "predictor"
    assert train_predictor.main([str(output), str(pairs), *FEW_STEPS]) == 0
    return output


def train(*arguments: object) -> int:
    return train_predictor.main([*map(str, arguments), *FEW_STEPS])


def evaluate(*arguments: object) -> int:
    return evaluate_predictor.main([*map(str, arguments), "--threads", "1"])


def test_the_result_is_calibrated_measured_and_complete(predictor: Path) -> None:
    config = json.loads((predictor / "config.json").read_text())
    assert config["calibration"]["pairs"] == 4
    assert config["held_out"]["pairs"] == 4
    assert config["training"]["backbone"] == "embedded"
    assert len(load_predictor(predictor).predict("drive", [], None).probabilities) == 4
    assert not [path for path in predictor.iterdir() if path.is_dir()]


def test_a_trained_predictor_is_not_trained_over(
    predictor: Path, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(predictor, pairs) == 1
    assert f"{predictor} holds a trained predictor already" in capsys.readouterr().err


def test_figures_are_shown_and_written(
    predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = write_pairs(tmp_path / "fresh.jsonl", 100, 10)
    files = ("--csv", tmp_path / "f.csv", "--json", tmp_path / "f.json")
    assert evaluate(predictor, fresh, *files, "--pessimism", 2) == 0
    shown = capsys.readouterr().out
    for figure in ("10  pairs", "MAE of N_hat", "RMSE", "R2", "right bucket", "pessimism 2"):
        assert figure in shown
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["pairs"] == 10
    assert {"mae", "rmse", "r2", "bucket_accuracy", "covered"} <= figures.keys()
    assert {"covered_pessimism_2", "covered_risk_0.05"} <= figures.keys()
    with (tmp_path / "f.csv").open() as file:
        rows = {row["figure"]: float(row["value"]) for row in csv.DictReader(file)}
    assert rows == figures


def test_pairs_of_the_training_are_refused_or_left_out(
    predictor: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(predictor, pairs) == 1
    told = capsys.readouterr().err
    assert "train.jsonl, line 1: " in told
    assert "and 35 others of these" in told
    assert evaluate(predictor, pairs, "--leave-out-seen", "--json", tmp_path / "f.json") == 0
    held_out = json.loads((predictor / "config.json").read_text())["held_out"]
    assert errors(json.loads((tmp_path / "f.json").read_text())) == errors(held_out)


def errors(figures: dict[str, float]) -> dict[str, float]:
    """Those that do not depend on the order of the pairs."""
    return {name: value for name, value in figures.items() if "risk" not in name}


def test_what_a_predictor_does_not_tell_is_said(
    predictor: Path, pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = Path(shutil.copytree(predictor, tmp_path / "silent"))
    (silent / "prompts.csv").unlink()
    assert evaluate(silent, pairs) == 0
    assert "does not tell which prompts it was trained on" in caplog.text


def test_pairs_of_another_target_are_named(
    predictor: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = PairsHeader("another/model", "fedcba9876543210", 64, {})
    assert evaluate(predictor, write_pairs(tmp_path / "fresh.jsonl", 100, 5, header)) == 0
    assert "target some/model (fingerprint 0123456789abcdef)" in caplog.text
    assert "this is another/model (fingerprint fedcba9876543210)" in caplog.text


def test_longer_pairs_than_buckets_are_refused(
    predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = PairsHeader("some/model", "0123456789abcdef", 65, {})
    assert evaluate(predictor, write_pairs(tmp_path / "long.jsonl", 100, 5, header)) == 1
    assert "longest_response (N_model) 64, but the pairs" in capsys.readouterr().err


def test_a_bucket_count_that_does_not_match_is_named(
    predictor: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(predictor, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "bucket_size": 8}))
    assert evaluate(folder, pairs) == 1
    assert "has 4 classes, but longest_response 64 in buckets of bucket_size 8" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("count", "arguments", "told"),
    [
        (0, (), "no pairs in it"),
        (2, (), "a set of 2: no pairs for all of train, calibration and held_out"),
        (5, ("--bucket-size", 0), "bucket_size must be >= 1, not 0"),
        (5, ("--held-out", 1.5), "held_out must be above 0"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    arguments: tuple[object, ...],
    told: str,
) -> None:
    few = write_pairs(tmp_path / "few.jsonl", 0, count)
    assert train(tmp_path / "predictor", few, *arguments) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "predictor").exists()


def test_a_backbone_that_is_nowhere_is_named(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "predictor"), str(pairs), "--backbone", str(tmp_path / "none")]
    assert train_predictor.main(arguments) == 1
    assert "none' was not found: no such directory" in capsys.readouterr().err


def test_the_backbone_is_the_papers_where_it_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paper = "Qwen/Qwen2.5-0.5B-Instruct"
    monkeypatch.setattr("timebill_ros.engine.checkpoint.checkpoint_folder", lambda _: tmp_path)
    caplog.set_level("INFO")
    assert train_predictor.find_backbone("auto") == (paper, tmp_path)
    assert f"the backbone is {paper}" in caplog.text

    def absent(model: str) -> Path:
        raise CheckpointNotFound(model, "no hub")

    monkeypatch.setattr("timebill_ros.engine.checkpoint.checkpoint_folder", absent)
    name, folder = train_predictor.find_backbone("auto")
    assert (name, folder.name) == ("embedded", "checkpoint")
    assert f"{paper!r} was not found: no hub; the backbone is the embedded model's" in caplog.text
