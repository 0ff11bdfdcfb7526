# SPDX-License-Identifier: Apache-2.0
"""The work that a profile times: chunks, steps and prefills, and what choosing a token adds."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from timebill_ros.engine.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from timebill_ros.engine.transformer_engine import TransformerEngine


_SHORTEST = 16  # tokens of the smallest chunk and cache
_FIRST_CHUNKS = 6
_LATER_CHUNKS = 5
_FEWEST_EVICTIONS = 3  # a line fitted to every other point needs as many
_WHOLE = (0.6, 2.7)  # lengths of whole prefills, in chunks: not those of the chunks themselves


@dataclass(frozen=True)
class ChunkVisit:
    """Times one chunk of a prefill, and evicting half of the prompt up to its end."""

    position: int
    tokens: int

    def __str__(self) -> str:
        return f"a chunk of {self.tokens} tokens behind {self.position}"

    @property
    def end(self) -> int:
        """Tokens cached after it."""
        return self.position + self.tokens

    @property
    def most_work(self) -> int:
        """From a chunk to one with more, the time grows less than this does."""
        return self.tokens * self.end


@dataclass(frozen=True)
class StepVisit:
    """Times decoding steps over so many cached tokens."""

    cached: int

    def __str__(self) -> str:
        return f"steps over {self.cached} tokens"


@dataclass(frozen=True)
class WholeVisit:
    """Times a whole prefill, to check what follows from the chunks."""

    tokens: int

    def __str__(self) -> str:
        return f"a prefill of {self.tokens} tokens"


Visit = ChunkVisit | StepVisit | WholeVisit


def chunk_visits(chunk: int, window: int, longest: int) -> list[ChunkVisit]:
    """Chunks that span the context up to ``longest`` tokens, ascending.

    First chunks of a prompt, some longer than the window, if a chunk can be, so that there is
    something to evict; then full ones further and further behind.
    """
    full = min(chunk, longest)
    first = {*spaced(shortest(full), full, _FIRST_CHUNKS)}
    if sum(tokens > window for tokens in first) < _FEWEST_EVICTIONS and full > window:
        first |= {*spaced(window + 1, full, _FEWEST_EVICTIONS + 1)}
    rest = longest - full
    later = spaced(min(full, max(1, rest // 8)), rest, _LATER_CHUNKS) if rest else []
    return [
        *(ChunkVisit(0, tokens) for tokens in sorted(first)),
        *(ChunkVisit(position, full) for position in later),
    ]


def deep_visit(chunk: int, window: int, longest: int) -> ChunkVisit:
    """A chunk at the end of the context that is as narrow as one that is evicted after can be.

    It tells what attending to a long context costs, at an eighth of a full chunk's time.
    """
    full = min(chunk, longest)
    tokens = min(full, max(window, full // 8))
    return ChunkVisit(longest - tokens, tokens)


def step_visits(longest: int, count: int) -> list[StepVisit]:
    """At most ``count`` cache lengths that span the context, ascending."""
    return [StepVisit(cached) for cached in spaced(shortest(longest), longest, count)]


def whole_visits(chunk: int, longest: int) -> list[WholeVisit]:
    """Prefills of at most ``longest`` tokens, ascending."""
    full = min(chunk, longest)
    lengths = {max(1, round(full * share)) for share in _WHOLE}
    return [WholeVisit(tokens) for tokens in sorted(lengths) if tokens <= longest]


def spaced(smallest: int, largest: int, count: int) -> list[int]:
    """At most ``count`` different lengths, spaced geometrically, both ends among them."""
    return sorted({*np.geomspace(smallest, largest, count).round().astype(int).tolist()})


def shortest(longest: int) -> int:
    """The smallest length to look at where ``longest`` is the largest."""
    return min(_SHORTEST, max(1, longest // 8))


# Drawn, or timed greedily, to tell what drawing adds.
_DRAWS = 32
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
    for _ in range(_DRAWS):
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
