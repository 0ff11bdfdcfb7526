# SPDX-License-Identifier: Apache-2.0
"""A predictor that reads the target's tokens is given these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from timebill_ros.cli import collect, evaluate_predictor
from timebill_ros.engine.fingerprint import target_fingerprint
from timebill_ros.runtime.loading import model_folder
from timebill_ros.runtime.settings import Settings

PREDICTOR = Path(model_folder(Settings())).parent / "predictor"


def test_the_embedded_predictor_is_right_about_what_it_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [{"prompt": text} for text in ("stop", "keep lane", "now stop")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    output = tmp_path / "pairs.jsonl"
    assert collect.main([str(output), "--prompts", str(tmp_path / "in.jsonl")]) == 0
    files = ["--json", str(tmp_path / "figures.json"), "--threads", "1"]
    assert evaluate_predictor.main([str(PREDICTOR), str(output), *files]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pairs"] == 3
    assert figures["bucket_accuracy"] == 1.0
    fingerprint = target_fingerprint(Path(model_folder(Settings())))
    assert f"this is embedded (fingerprint {fingerprint})" not in caplog.text
