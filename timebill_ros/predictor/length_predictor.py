# SPDX-License-Identifier: Apache-2.0
"""What every response length predictor (RLP) offers, and how it shortens a prompt."""

from __future__ import annotations

from collections.abc import Sequence
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
