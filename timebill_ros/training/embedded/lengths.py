# SPDX-License-Identifier: Apache-2.0
"""Prompts with the lengths of their answers: what the length predictor learns from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.conversation import Conversation
from timebill_ros.engine.prompt import encode_prompt
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.training.embedded.generation import generate
from timebill_ros.workload.tasks import Family, Task, sample_family, sample_task

SHORTEST_PROMPT = 160


@dataclass(frozen=True)
class Pair:
    """A prompt's tokens, the length N of its answer, end token included, and what it asks for."""

    prompt_ids: tuple[int, ...]
    response_tokens: int
    family: Family


def sample_tasks(
    seed: int, count: int, longest_prompt: int, *, unseen: bool = False
) -> Iterator[Task]:
    """Draw tasks with prompts of log-uniform length, ``SHORTEST_PROMPT`` to ``longest_prompt``.

    ``unseen`` draws wordings and layouts that no model was trained on.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        length = np.exp(rng.uniform(np.log(SHORTEST_PROMPT), np.log(longest_prompt)))
        yield sample_task(rng, sample_family(rng), int(length), held_out=unseen)


def generated(
    engine: TransformerEngine, tasks: Iterable[Task], alpha: float = 0.0
) -> Iterator[Pair]:
    """Answer tasks after evicting at ``alpha``, and yield the lengths that came out."""
    for task in tasks:
        answer = generate(engine, task, alpha)
        yield Pair(answer.prompt_ids, answer.response_tokens, task.family)


def right_answers(tokenizer: PreTrainedTokenizerBase, tasks: Iterable[Task]) -> Iterator[Pair]:
    """The lengths that right answers would have; a thousand times cheaper than generating them."""
    for task in tasks:
        prompt = encode_prompt(tokenizer, Conversation(task.system, task.instruction))
        yield Pair(tuple(prompt), task.reference_tokens, task.family)


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as arrays: all prompts in one row, their ends, the lengths, the families."""
    np.savez_compressed(
        path,
        tokens=np.concatenate([np.array(pair.prompt_ids, dtype=np.uint16) for pair in pairs]),
        ends=np.cumsum([len(pair.prompt_ids) for pair in pairs]),
        response_tokens=np.array([pair.response_tokens for pair in pairs]),
        families=np.array([str(pair.family) for pair in pairs]),
    )


def read_pairs(path: Path) -> list[Pair]:
    """Read what ``write_pairs`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        prompts = np.split(arrays["tokens"], arrays["ends"][:-1])
        rows = zip(prompts, arrays["response_tokens"], arrays["families"], strict=True)
        return [Pair(tuple(p.tolist()), int(n), Family(family)) for p, n, family in rows]
