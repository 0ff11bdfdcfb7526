# SPDX-License-Identifier: Apache-2.0
"""Measuring what choosing a token adds to a step: drawing it, or holding it to a schema."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from timebill_ros.engine.sampling import Sampler, Sampling

if TYPE_CHECKING:  # it imports this module
    from timebill_ros.engine.transformer_engine import TransformerEngine


_TOKENS = 32
_LEAST = 1e-7  # s; by noise the difference may come out as none
_DRAWN = Sampling(temperature=1.0, top_p=0.9)


def time_drawing(vocabulary: int, device: torch.device) -> float:
    """Seconds by which a drawn token takes longer than a greedy one."""
    logits = torch.randn(vocabulary, device=device)
    return max(_LEAST, _median(_DRAWN, logits) - _median(Sampling(), logits))


def _median(sampling: Sampling, logits: torch.Tensor) -> float:
    sampler = Sampler(sampling)
    sampler.begin()
    times = []
    for _ in range(_TOKENS):
        start = time.perf_counter_ns()
        sampler.pick(logits)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) * 1e-9


# What robots are asked for: a choice, a name, numbers, free text, a list.
_SCHEMA = {
    "type": "object",
    "properties": {
        "action": {"enum": ["follow", "overtake", "avoid", "stop"]},
        "target": {"type": "string", "pattern": "^o[0-9]+$"},
        "speed": {"type": "number", "minimum": 0, "maximum": 60},
        "urgent": {"type": "boolean"},
        "steps": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 9},
    },
    "required": ["action", "target", "speed", "urgent", "steps"],
    "additionalProperties": False,
}
_ANSWER = {
    "action": "follow",
    "target": "o881",
    "speed": 12.5,
    "urgent": False,
    "steps": ["match its speed", "hold the gap", "keep the lane", "watch the truck ahead of it"],
}


def structured_answer(engine: TransformerEngine) -> Callable[[], None]:
    """Begin an answer under a schema of the usual kinds of values; what takes its next token.

    A token is chosen as in ``ResponseSoFar.take``, but always the next one of the same answer.

    Raises:
        SchemaRefused: the model's responses cannot be held to a schema.
    """
    constraint = engine.schemas.constraint(json.dumps(_SCHEMA))
    tokens = iter(engine.schemas.tokens(json.dumps(_ANSWER)))
    logits = torch.zeros(engine.vocabulary, device=engine.device)

    def choose() -> None:
        constraint.restrict(logits)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        constraint.accept(next(tokens))

    return choose
