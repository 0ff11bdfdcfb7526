# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import product

from timebill_ros.engine.request import Conversation
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.training.embedded.evaluate import HELD_OUT_SEED, held_out_tasks, measure_methods
from timebill_ros.training.embedded.generation import (
    CHECKPOINT,
    LONGEST_RESPONSE,
    generate,
    open_engine,
)
from timebill_ros.workload.tasks import Family


def test_held_out_tasks_repeat_and_differ_by_family_and_length() -> None:
    tasks = held_out_tasks(Family.REPORT, 200, 3)
    assert tasks == held_out_tasks(Family.REPORT, 200, 3)
    others = [*held_out_tasks(Family.PLAN, 200, 3), *held_out_tasks(Family.REPORT, 201, 3)]
    assert not {task.system for task in tasks} & {task.system for task in others}
    assert HELD_OUT_SEED > 1000  # training takes small seeds


def test_every_method_family_and_ratio_is_measured() -> None:
    opened = []

    def open_with(method: str) -> TransformerEngine:
        opened.append(method)
        return open_engine(CHECKPOINT, threads=1, method=method)

    methods = ["streaming_llm", "random"]
    rows = list(measure_methods(open_with, methods, [200], [0.0, 0.5], 1))
    cells = [(row.method, row.family, row.alpha) for row in rows]
    assert len(cells) == len(set(cells))
    assert set(cells) == set(product(methods, map(str, Family), (0.0, 0.5)))
    assert opened == methods
    assert all(0.0 <= row.exact <= row.score / 100.0 <= 1.0 for row in rows)


def test_generation_keeps_the_observation_window() -> None:
    engine = open_engine(CHECKPOINT, threads=1)
    task = held_out_tasks(Family.COMMAND, 200, 1)[0]
    answer = generate(engine, task, alpha=0.99)
    assert 1 <= answer.response_tokens <= LONGEST_RESPONSE
    assert len(answer.prompt_ids) == task.prompt_tokens


def test_the_longest_prompts_fit() -> None:
    engine = open_engine(CHECKPOINT, threads=1)
    tasks = [task for family in Family for task in held_out_tasks(family, 8192, 8)]
    requests = [engine.prepare(Conversation(task.system, task.instruction)) for task in tasks]
    longest = max(request.prompt_tokens for request in requests)
    assert longest + LONGEST_RESPONSE <= engine.max_context
