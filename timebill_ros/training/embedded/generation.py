# SPDX-License-Identifier: Apache-2.0
"""Answers of the embedded model to workload tasks, at a given eviction ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from timebill_ros.budget.quality import QUALITY_FILE
from timebill_ros.engine.checkpoint import load_checkpoint
from timebill_ros.engine.protocol import FinishReason
from timebill_ros.engine.request import Conversation
from timebill_ros.engine.settings import EngineSettings
from timebill_ros.engine.transformer_engine import TransformerEngine
from timebill_ros.workload.tasks import Task

_EMBEDDED = Path(__file__).parents[2] / "embedded"
CHECKPOINT = _EMBEDDED / "checkpoint"
PREDICTOR = _EMBEDDED / "predictor"
# Q(alpha), by eviction method, as measured on this model.
QUALITY = CHECKPOINT / QUALITY_FILE

# Words that the workload does not know have a token per letter: up to 32 beyond the length asked.
LONGEST_PROMPT = 8192 + 32
# N_model: above the longest reference answer, 385 tokens, so that only runaway answers reach it.
LONGEST_RESPONSE = 400
# Covers the longest instruction, which names 48 objects.
OBSERVATION_WINDOW = 64


@dataclass(frozen=True)
class Generated:
    """One answer; ``response_tokens`` is N, the end token included."""

    prompt_ids: tuple[int, ...]
    text: str
    response_tokens: int
    finish_reason: FinishReason


def open_engine(
    checkpoint: Path,
    *,
    threads: int,
    window: int = OBSERVATION_WINDOW,
    method: str = "snapkv",
) -> TransformerEngine:
    """An engine for the workload's prompts and greedy decoding, that evicts by ``method``."""
    settings = EngineSettings(
        max_context=LONGEST_PROMPT + LONGEST_RESPONSE,
        window=window,
        eviction_method=method,
        threads=threads,
    )
    return TransformerEngine(load_checkpoint(checkpoint), settings)


def generate(engine: TransformerEngine, task: Task, alpha: float = 0.0) -> Generated:
    """Answer ``task`` after evicting the share ``alpha`` of the prompt's cache."""
    request = engine.prepare(Conversation(task.system, task.instruction))
    prompt_ids = request.prompt_ids
    engine.begin(request, LONGEST_RESPONSE)
    while not engine.prefill_chunk():
        pass
    kept = max(math.floor((1.0 - alpha) * len(prompt_ids)), engine.window)
    if kept < len(prompt_ids):
        engine.evict(kept)
    while engine.finish_reason is None:
        engine.step()
    return Generated(tuple(prompt_ids), engine.text(), engine.response_tokens, engine.finish_reason)
