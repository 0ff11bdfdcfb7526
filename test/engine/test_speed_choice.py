# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import nn

from timebill_ros.engine.factory import (
    SpeedChoice,
    measure_speeds,
    recall_or_choose,
    thread_numbers,
)
from timebill_ros.engine.factory import make_engine as factory_engine
from timebill_ros.engine.settings import EngineSettings

ENVIRONMENT = {"checkpoint": "abc", "cores": 2}
CHOICE = SpeedChoice(2, prefill="bfloat16", steps="float32")


def choose(seconds):
    """The choice where every way to multiply takes the time that a rule gives it."""

    def timed(weights, kind, rows):
        return lambda: seconds(torch.get_num_threads(), kind, rows)

    kinds = ["float32", "bfloat16"]
    return measure_speeds(nn.Linear(8, 8), chunk=512, threads=[1, 2, 4], kinds=kinds, timed=timed)


def test_prefill_and_steps_may_differ():
    faster = {("bfloat16", 512), ("float32", 1)}
    made = choose(lambda n, kind, rows: (1.0 if (kind, rows) in faster else 2.0) / n)
    assert made == SpeedChoice(4, prefill="bfloat16", steps="float32")


def test_more_threads_that_slow_each_other_are_not_taken():
    assert choose(lambda n, kind, rows: {1: 1.0, 2: 0.7, 4: 0.9}[n]).threads == 2


def test_other_work_for_some_turns_decides_nothing():
    turns = iter(range(1000))

    def seconds(n, kind, rows):
        busy = next(turns) < 24  # two of five turns
        return (50.0 if busy and n == 4 else 1.0) / n

    assert choose(seconds).threads == 4


def test_a_choice_is_made_once(tmp_path):
    assert recall_or_choose(tmp_path, ENVIRONMENT, lambda: CHOICE) == CHOICE
    assert recall_or_choose(tmp_path, ENVIRONMENT, lambda: pytest.fail("again")) == CHOICE
    other = SpeedChoice(1, "float32", "float32")
    assert recall_or_choose(tmp_path, ENVIRONMENT | {"cores": 4}, lambda: other) == other


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:20],
        lambda text: text.replace("bfloat16", "int2"),
        lambda text: text.replace('"threads": 2', '"threads": 0'),
        lambda text: text.replace("abc", "xyz"),
        lambda text: "[]",
    ],
)
def test_a_damaged_choice_is_made_again(tmp_path, damage):
    recall_or_choose(tmp_path, ENVIRONMENT, lambda: CHOICE)
    (path,) = tmp_path.iterdir()
    path.write_text(damage(path.read_text()))
    other = SpeedChoice(1, "float32", "float32")
    assert recall_or_choose(tmp_path, ENVIRONMENT, lambda: other) == other
    assert recall_or_choose(tmp_path, ENVIRONMENT, lambda: pytest.fail("again")) == other


@pytest.mark.parametrize(
    ("most", "numbers"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_thread_numbers_worth_trying(most, numbers):
    assert thread_numbers(most) == numbers


def test_real_layers_are_measured_and_the_threads_stay():
    before = torch.get_num_threads()
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 64))
    choice = measure_speeds(model, chunk=8, threads=[1], kinds=["float32", "bfloat16"])
    assert choice.threads == 1
    assert {choice.prefill, choice.steps} <= {"float32", "bfloat16"}
    assert torch.get_num_threads() == before


def test_a_small_model_is_kept_whole_on_one_thread(checkpoint_of, tmp_path):
    settings = EngineSettings(max_context=0, threads=0, chunk=32, window=8, weights=None)
    engine = factory_engine(checkpoint_of("qwen2"), settings, tmp_path)
    assert (engine.traits["threads"], engine.traits["weights"]) == (1, "")
    assert not list(tmp_path.iterdir())
