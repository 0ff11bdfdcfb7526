# SPDX-License-Identifier: Apache-2.0
"""Prompts with the lengths of their answers, and the training of networks that predict them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from timebill_ros.engine.prompt import PromptEncoder
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.training.embedded.generation import LONGEST_PROMPT, generate
from timebill_ros.workload.tasks import Family, Task, sample_family, sample_task

SHORTEST_PROMPT = 160


@dataclass(frozen=True)
class TaskPair:
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
) -> Iterator[TaskPair]:
    """Answer tasks after evicting at ``alpha``, and yield the lengths that came out."""
    for task in tasks:
        answer = generate(engine, task, alpha)
        yield TaskPair(answer.prompt_ids, answer.response_tokens, task.family)


def right_answers(tokenizer: PreTrainedTokenizerBase, tasks: Iterable[Task]) -> Iterator[TaskPair]:
    """The lengths that right answers would have; a thousand times cheaper than generating them."""
    prompts = PromptEncoder(tokenizer, LONGEST_PROMPT)
    for task in tasks:
        _, prompt = prompts.encode(Conversation(task.system, task.instruction))
        yield TaskPair(tuple(prompt), task.reference_tokens, task.family)


def write_pairs(path: Path, pairs: Sequence[TaskPair]) -> None:
    """Write pairs as arrays: all prompts in one row, their ends, the lengths, the families."""
    np.savez_compressed(
        path,
        tokens=np.concatenate([np.array(pair.prompt_ids, dtype=np.uint16) for pair in pairs]),
        ends=np.cumsum([len(pair.prompt_ids) for pair in pairs]),
        response_tokens=np.array([pair.response_tokens for pair in pairs]),
        families=np.array([str(pair.family) for pair in pairs]),
    )


def read_pairs(path: Path) -> list[TaskPair]:
    """Read what ``write_pairs`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        prompts = np.split(arrays["tokens"], arrays["ends"][:-1])
        rows = zip(prompts, arrays["response_tokens"], arrays["families"], strict=True)
        return [TaskPair(tuple(p.tolist()), int(n), Family(family)) for p, n, family in rows]


PROMPTS_PER_STEP = 32
PEAK_RATE = 4e-3
WARM_UP_SHARE = 0.05
WEIGHT_DECAY = 0.02

Loss = Callable[[Tensor, Sequence[int]], Tensor]
"""Of a network's outputs [batch, classes] and the true lengths N [batch]."""


def train(
    network: nn.Module,
    pairs: Sequence[TaskPair],
    loss: Loss,
    *,
    steps: int,
    seed: int,
    peak_rate: float = PEAK_RATE,
) -> Iterator[float]:
    """Train ``network`` in place; yields the loss of every step.

    The learning rate rises to ``peak_rate``, then falls linearly to 0. A step's prompts have
    similar lengths, so that little is padding.
    """
    rng = np.random.default_rng(seed)
    by_length = sorted(pairs, key=lambda pair: len(pair.prompt_ids))
    last_start = max(0, len(by_length) - PROMPTS_PER_STEP)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    network.train().requires_grad_(True)
    for step in range(1, steps + 1):
        share = min(1.0, step / (WARM_UP_SHARE * steps), 1.0 - (step - 1) / steps)
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * share
        start = int(rng.integers(0, last_start + 1))
        batch = by_length[start : start + PROMPTS_PER_STEP]
        error = loss(network(*pad(batch)), [pair.response_tokens for pair in batch])
        error.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        yield error.item()


@torch.inference_mode()
def outputs_of(network: nn.Module, pairs: Sequence[TaskPair]) -> Tensor:
    """The network's outputs [pairs, classes], in the order of ``pairs``."""
    network.eval()
    return torch.cat([network(*pad([pair])) for pair in pairs])


def pad(pairs: Sequence[TaskPair]) -> tuple[Tensor, Tensor]:
    """Tokens [batch, length], padded on the left, and where they are not padding."""
    longest = max(len(pair.prompt_ids) for pair in pairs)
    tokens = torch.zeros(len(pairs), longest, dtype=torch.long)
    valid = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for i, pair in enumerate(pairs):
        tokens[i, longest - len(pair.prompt_ids) :] = torch.tensor(pair.prompt_ids)
        valid[i, longest - len(pair.prompt_ids) :] = True
    return tokens, valid
