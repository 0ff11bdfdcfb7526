# SPDX-License-Identifier: Apache-2.0
"""A model of one's own, from its first prompt to a node that plans with its predictor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig

from timebill_ros.msg import Response

from ..engine.conftest import COMMON, save_checkpoint
from .subject import PATIENCE, Subject, ask, ended_by

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LONGEST = 48
# A random model hardly ever ends an answer: letters do, so that lengths differ.
STOP = ["a", "e", "i", "o", "u"]
QUESTION = "instruction 999: go left"


def command(name: str, *arguments: object) -> str:
    """Run one of the package's commands as a user would; what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "timebill_ros", name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**COMMON, "max_position_embeddings": 1024}
    return save_checkpoint(tmp_path_factory.mktemp("own") / "model", LlamaConfig(**config))


@pytest.fixture(scope="module")
def predictor(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collected, trained and measured by the commands."""
    folder = tmp_path_factory.mktemp("own")
    prompts = [{"prompt": f"instruction {n}: go {('left', 'right')[n % 2]}"} for n in range(150)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    decoding = ("--max-tokens", LONGEST, "--temperature", 1.0, "--stop", *STOP)
    target = ("--model", model, "--threads", 1, *decoding)
    source = ("--prompts", folder / "prompts.jsonl")
    assert "100 answered" in command(
        "collect", folder / "pairs.jsonl", *source, "--count", 100, *target
    )
    assert "100 known already, 50 answered" in command(
        "collect", folder / "pairs.jsonl", *source, *target
    )
    recipe = ("--backbone", "embedded", "--bucket-size", 8, "--epochs", 2, "--cpu", "--threads", 1)
    trained = command("train-predictor", folder / "predictor", folder / "pairs.jsonl", *recipe)
    assert "15  pairs" in trained
    evaluated = command(
        "evaluate-predictor", folder / "predictor", folder / "pairs.jsonl", "--leave-out-seen"
    )
    errors = [line for line in evaluated.splitlines() if "risk" not in line]
    assert len(errors) == 8
    assert set(errors) <= set(trained.splitlines())
    return folder / "predictor"


def test_the_node_plans_with_the_trained_predictor(
    node: Subject, model: Path, predictor: Path
) -> None:
    decoding = {"temperature": 1.0, "stop": STOP, "max_tokens": LONGEST}
    node.serve(model=str(model), predictor=str(predictor), max_context=512, **decoding)
    with node.client() as client:
        exchange = client.send(ask("own", QUESTION))
        assert client.wait_for_all(PATIENCE)
    response = ended_by(exchange)
    assert isinstance(response, Response)
    plan = response.plan
    assert 0 < plan.predicted_tokens <= LONGEST
    assert plan.predicted_tokens % 8 == 0
    assert plan.predicted_tokens <= plan.planned_tokens <= LONGEST
    assert 0 < response.response_tokens <= LONGEST
    # Warnings come before the node is active.
    assert node.says("active: instructions are taken")
    assert not node.said("was trained for the target")
    assert not node.said("was trained on answers with")


def test_another_model_is_warned_of(node: Subject, predictor: Path) -> None:
    node.serve(predictor=str(predictor), temperature=0.0, stop=[""], max_tokens=400)
    assert node.says("but this is embedded (fingerprint")
    assert node.says("was trained on answers with temperature 1.0, but temperature is 0.0")
    assert node.says(f"longest_response {LONGEST} tokens, but max_tokens is 400")
