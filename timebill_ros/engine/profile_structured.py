# SPDX-License-Identifier: Apache-2.0
"""An answer under a JSON schema, to measure what the schema adds to a token."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # it imports this module
    from timebill_ros.engine.transformer_engine import TransformerEngine

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

    A token is chosen as in ``Response.take``, but always the next one of the same answer.

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
