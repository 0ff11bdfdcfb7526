# SPDX-License-Identifier: Apache-2.0
"""What the demo asks, and budgets that mean the same on a slow and on a fast machine.

Every task is first answered once without hurry. Those answers tell how long each takes here and
what the node plans for it; the budgets of the run with deadlines follow from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np

from timebill_ros.workload.phrases import LONGEST_PHRASE
from timebill_ros.workload.scene import sample_scene
from timebill_ros.workload.tasks import TEMPLATE_TOKENS, Family, Task, pose

# Family, prompt tokens, and number of named objects where the family names objects: short and
# long answers from short and long prompts.
_TASKS = (
    (Family.FIELD, 200, 1),
    (Family.COMMAND, 400, 1),
    (Family.COUNT, 700, 1),
    (Family.LIST, 1000, 1),
    (Family.REPORT, 1500, 6),
    (Family.PLAN, 2000, 1),
    (Family.REPORT, 3000, 8),
    (Family.REPORT, 3500, 12),
    (Family.REPORT, 4000, 10),
    (Family.REPORT, 4000, 40),
)
# s after which the first of a group runs, and the others, sent then, wait for it.
HEAD_START = 0.02

# Shares of what a prompt of almost no tokens would save that the tight budgets have to save.
_TO_SAVE = (0.25, 0.45, 0.65, 0.85)
# A comfortable budget is the worst case, planned or seen, and half as much again, and never within
# what a busy machine may lose to others, s.
_COMFORT, _COMFORT_BASE = 1.5, 0.1
# Shares of an answer's time that hopeless budgets leave: for a few tokens, and for none.
_SOME_TOKENS, _NO_TOKEN = 0.1, 0.005


class Aim(StrEnum):
    """What a budget is meant to bring about."""

    COMFORTABLE = "comfortable"
    """The worst case fits: nothing is evicted."""
    TIGHT = "tight"
    """The answer is in time only if part of the prompt, or of its cache, is given up."""
    HOPELESS = "hopeless"
    """Whatever is given up, the whole answer is late."""


@dataclass(frozen=True)
class Look:
    """What one answer without hurry, and so without eviction, told of its task.

    Attributes:
        prompt_tokens: N_x.
        spent: s until decoding began: prefill, and waiting for the predictor.
        decode: s of decoding.
        wcet: s, the node's worst case from start to end, equation (9).
    """

    prompt_tokens: int
    spent: float
    decode: float
    wcet: float

    @property
    def execution(self) -> float:
        """Seconds from start to end."""
        return self.spent + self.decode


@dataclass(frozen=True)
class Request:
    """One instruction of the run: a task by its number, and its budget in s."""

    id: str
    task: int
    aim: Aim
    budget: float


def draw_tasks(seed: int) -> list[Task]:
    """The demo's tasks, of about 200 to 4,000 prompt tokens."""
    rng = np.random.default_rng(seed)
    tasks = []
    for family, prompt_tokens, names in _TASKS:
        scene = sample_scene(rng, prompt_tokens - TEMPLATE_TOKENS - LONGEST_PHRASE - names)
        instruction, reference = pose(rng, family, scene, names)
        tasks.append(Task(family, scene.text, instruction, reference))
    return tasks


def plan_run(looks: Sequence[Look]) -> list[list[Request]]:
    """The instructions of the run in the order of sending, in groups.

    All of a group but its first are sent HEAD_START after it, and wait for it and each other; a
    group is sent when the one before it has ended.
    """
    budgets = _Budgets(looks)
    everything = range(len(looks))
    steerable = sorted(everything, key=budgets.authority, reverse=True)[: len(_TO_SAVE)]
    longest_prompt = max(everything, key=lambda task: looks[task].spent)
    longest_answer = max(everything, key=lambda task: looks[task].decode)
    others = set(everything) - {longest_prompt, longest_answer, *steerable}
    single = [(task, Aim.COMFORTABLE, budgets.comfortable(task)) for task in sorted(others)]
    single += [
        (task, Aim.TIGHT, budgets.tight(task, share))
        for task, share in zip(steerable, _TO_SAVE, strict=False)
    ]
    single.append((longest_prompt, Aim.HOPELESS, budgets.hopeless(longest_prompt, _NO_TOKEN)))
    single.append((longest_answer, Aim.HOPELESS, budgets.hopeless(longest_answer, _SOME_TOKENS)))
    groups = [[request] for request in single]
    groups.append(_burst(budgets, steerable[0], longest_prompt, longest_answer))
    number = count(1)
    return [
        [Request(f"{aim[0]}{next(number):02}", task, aim, budget) for task, aim, budget in group]
        for group in groups
    ]


def _burst(
    budgets: _Budgets, steerable: int, longest_prompt: int, longest_answer: int
) -> list[tuple[int, Aim, float]]:
    """Six that meet: the first misses its deadline, and the last one's passes in the queue.

    Between them those that can wait: their budgets grow by what runs before them, and stand in
    the order in which the node, earliest deadline first, takes them.
    """
    looks = budgets.looks
    by_time = sorted(range(len(looks)), key=lambda task: looks[task].execution)
    easy = (by_time[0], by_time[len(by_time) // 2], longest_prompt)
    patient = [(task, Aim.COMFORTABLE, budgets.comfortable(task)) for task in easy]
    patient.append((steerable, Aim.TIGHT, budgets.tight(steerable, _TO_SAVE[1])))
    first = budgets.hopeless(longest_answer, _SOME_TOKENS)
    group = [(longest_answer, Aim.HOPELESS, first)]
    wait = first - HEAD_START
    for task, aim, budget in sorted(patient, key=lambda waiting: waiting[2]):
        group.append((task, aim, wait + budget))
        wait += looks[task].execution
    last = budgets.hopeless(longest_prompt, _NO_TOKEN)
    return [*group, (longest_prompt, Aim.HOPELESS, last)]


@dataclass(frozen=True)
class _Budgets:
    """Budgets, s from the start of execution, by the number of a task."""

    looks: Sequence[Look]

    def comfortable(self, task: int) -> float:
        look = self.looks[task]
        return _COMFORT * max(look.wcet, look.execution) + _COMFORT_BASE

    def tight(self, task: int, share: float) -> float:
        """The answer's time less ``share`` of what a prompt of almost no tokens would save."""
        return self.looks[task].execution - share * self._savable(task)

    def hopeless(self, task: int, share: float) -> float:
        """``share`` of the answer's time."""
        return share * self.looks[task].execution

    def authority(self, task: int) -> float:
        """How much of the answer's time a shorter prompt saves."""
        return self._savable(task) / self.looks[task].execution

    def _savable(self, task: int) -> float:
        """Seconds until decoding that the prompt's tokens cost, not the machine's start."""
        return self.looks[task].spent - min(look.spent for look in self.looks)
