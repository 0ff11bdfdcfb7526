# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from timebill_ros.training.embedded.batches import build_tokenizer
from timebill_ros.training.embedded.lengths import (
    TaskPair,
    read_pairs,
    right_answers,
    sample_tasks,
    write_pairs,
)
from timebill_ros.workload.tasks import Family
from timebill_ros.workload.vocabulary import domain_words


def test_pairs_come_back_from_their_file(tmp_path: Path) -> None:
    pairs = [TaskPair((1, 2, 3), 9, Family.LIST), TaskPair((4,), 400, Family.REPORT)]
    write_pairs(tmp_path / "pairs.npz", pairs)
    assert read_pairs(tmp_path / "pairs.npz") == pairs


def test_expected_lengths_are_those_of_the_references() -> None:
    tokenizer = build_tokenizer(domain_words(), 4096)
    tasks = list(sample_tasks(seed=0, count=5, longest_prompt=400))
    pairs = list(right_answers(tokenizer, tasks))
    for task, pair in zip(tasks, pairs, strict=True):
        answer = tokenizer.encode(task.reference, add_special_tokens=False)
        assert pair.response_tokens == len(answer) + 1
        assert pair.family is task.family
        assert tokenizer.decode(pair.prompt_ids).endswith("<ans>")
    assert tasks == list(sample_tasks(seed=0, count=5, longest_prompt=400))


def test_unseen_tasks_are_worded_otherwise() -> None:
    def wordings(unseen: bool) -> set[str]:
        tasks = sample_tasks(seed=0, count=60, longest_prompt=200, unseen=unseen)
        return {task.instruction for task in tasks if task.family is Family.COMMAND}

    assert wordings(unseen=True).isdisjoint(wordings(unseen=False))
