# SPDX-License-Identifier: Apache-2.0
"""Measuring what a JSON schema adds to a response token."""

from __future__ import annotations

import json
import time

import torch

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


@torch.inference_mode()
def structured_seconds(engine: TransformerEngine) -> float:
    """Mean seconds per token of choosing and following the allowed ones through a whole answer.

    The mean, since few tokens (the first in a string) cost most.

    Raises:
        SchemaRefused: the model's responses cannot be held to a schema.
    """
    held = engine.schemas.hold(json.dumps(_SCHEMA))
    tokens = engine.schemas.tokens(json.dumps(_ANSWER))
    logits = torch.zeros(engine.vocabulary, device=engine.device)
    start = time.perf_counter_ns()
    for token in tokens:
        held.restrict(logits)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        held.accept(token)
    return (time.perf_counter_ns() - start) * 1e-9 / len(tokens)
