# SPDX-License-Identifier: Apache-2.0
"""Shortening a prompt for the predictor."""

from __future__ import annotations

from collections.abc import Sequence


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
