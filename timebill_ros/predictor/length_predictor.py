# SPDX-License-Identifier: Apache-2.0
"""What every response length predictor (RLP) offers, loading one, and how it shortens a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from timebill_ros.budget.length import LengthDistribution


def keep_head_and_tail(tokens: Sequence[int], limit: int | None) -> list[int]:
    """At most ``limit`` tokens (None: all): the first and the last halves, the middle dropped.

    An instruction stands at the start or at the end of a prompt, so both stay; the tail gets the
    odd token.
    """
    if limit is None or len(tokens) <= limit:
        return list(tokens)
    tail = (limit + 1) // 2 if limit > 0 else 0
    head = limit - tail if limit > 0 else 0
    return [*tokens[:head], *tokens[len(tokens) - tail :]]


class LengthPredictor(Protocol):
    """Predicts how many tokens the target model will answer with.

    Attributes:
        bucket_size: B, tokens.
    """

    bucket_size: int

    def predict(
        self, text: str, prompt_ids: Sequence[int], max_input: int | None
    ) -> LengthDistribution:
        """P(bucket) of the response length; blocks, on the predictor's own thread.

        ``text`` is the prompt as words, ``prompt_ids`` as the target's tokens: a predictor reads
        the one that it understands. At most ``max_input`` tokens are read (None: all that it
        can): head and tail stay, the middle goes, for the instruction's start and end carry the
        task.
        """


def load_predictor(
    folder: str | Path, *, device: str = "cpu", threads: int | None = None
) -> LengthPredictor:
    """Load a predictor's checkpoint directory; ``model_type`` in its config.json tells the kind.

    Args:
        folder: the directory; safetensors only.
        device: "cpu", "cuda", "cuda:1", ...
        threads: CPU threads of one prediction; None leaves the calling thread's number.

    Raises:
        PredictorError: one of its subclasses says what is wrong with the checkpoint.
    """
    from timebill_ros.predictor import embedded_predictor, sequence_classifier
    from timebill_ros.predictor.checkpoint import read_config

    path = Path(folder).expanduser()
    kind = read_config(path).get("model_type")
    room = embedded_predictor if kind == embedded_predictor.MODEL_TYPE else sequence_classifier
    predictor: LengthPredictor = room.load(path, device=device, threads=threads)
    return predictor
