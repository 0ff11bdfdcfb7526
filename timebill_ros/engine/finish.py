# SPDX-License-Identifier: Apache-2.0
"""Why a response ended."""

from __future__ import annotations

from enum import Enum


class FinishReason(Enum):
    """The reason that a response is complete."""

    EOS = "EOS"
    """The model generated an end-of-sequence token."""

    LENGTH = "LENGTH"
    """The response reached the request's ``max_tokens``."""

    STOP = "STOP"
    """The response's text came to contain a stop string."""

    DEADLINE = "DEADLINE"
    """The deadline was too near for another token; no engine says so, only who watches the time."""
